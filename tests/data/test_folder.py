from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from duallora.data import decode, read_domains, read_folder, scan_classes
from duallora.data import folder as module
from duallora.errors import DualLoRAError

Writer = Callable[..., Path]


def fill(write: Writer, root: str, **counts: int) -> None:
    for name, count in counts.items():
        for i in range(count):
            write(f"{root}/{name}/{i}.png", (i, len(name), 0))


def test_classes_in_order_of_names_and_images_in_order_of_paths(tmp_path: Path, write: Writer) -> None:
    fill(write, "zoo", dog=3, cat=2)
    write("zoo/cat/deep/down/x.JPG")
    images = scan_classes(tmp_path / "zoo")
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [item.name for item in images.items] == ["0.png", "1.png", "x.JPG", "0.png", "1.png", "2.png"]
    assert images.skipped == ()
    assert torch.equal(images.image(4), decode(tmp_path / "zoo/dog/1.png"))
    assert scan_classes(str(tmp_path / "zoo")).fingerprint() == images.fingerprint()


def test_fingerprint_survives_a_move_and_sees_a_change(tmp_path: Path, write: Writer) -> None:
    fill(write, "zoo", dog=3, cat=2)
    before = scan_classes(tmp_path / "zoo").fingerprint()
    shutil.move(tmp_path / "zoo", tmp_path / "moved")
    assert scan_classes(tmp_path / "moved").fingerprint() == before
    write("moved/cat/new.png")
    assert scan_classes(tmp_path / "moved").fingerprint() != before


def test_missing(tmp_path: Path) -> None:
    for read in (scan_classes, read_folder, read_domains):
        with pytest.raises(DualLoRAError, match=r"zoo' does not exist; expected a folder"):
            read(tmp_path / "zoo")  # type: ignore[operator]


def test_a_file_instead_of_a_folder(write: Writer) -> None:
    with pytest.raises(DualLoRAError, match=r"a.png' is a file; expected a folder with one sub-folder per class"):
        read_folder(write("a.png"))


def test_empty(tmp_path: Path) -> None:
    (tmp_path / ".hidden").mkdir()
    with pytest.raises(DualLoRAError, match=r"is empty; expected .*<class>/<image>"):
        scan_classes(tmp_path)


def test_loose_images_without_class_folders(tmp_path: Path, write: Writer) -> None:
    write("a.png")
    write("b.png")
    with pytest.raises(DualLoRAError, match=r"no class folders, but 2 loose image\(s\)"):
        scan_classes(tmp_path)


def test_only_other_files(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(DualLoRAError, match=r"no class folders, only 1 file\(s\) that are no images"):
        scan_classes(tmp_path)


def test_empty_class_folders(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    with pytest.raises(DualLoRAError, match="no usable image"):
        scan_classes(tmp_path)


def test_one_image_in_all(tmp_path: Path, write: Writer) -> None:
    write("cat/a.png")
    with pytest.raises(DualLoRAError, match=r"only 1 usable image .*expected at least 2"):
        scan_classes(tmp_path)
    assert len(scan_classes(tmp_path, minimum=1)) == 1


def test_nothing_but_bad_files_says_why(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.jpg").touch()
    with pytest.raises(DualLoRAError, match=r"no usable image.*a.jpg: is empty \(0 bytes\)"):
        scan_classes(tmp_path)


@pytest.mark.parametrize("whole", [True, False])
def test_what_cannot_be_used_is_listed_never_silently_dropped(
    tmp_path: Path, write: Writer, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    if not whole:
        monkeypatch.setattr(module, "WHOLE_CHECK", 0)
    fill(write, "zoo", cat=3, dog=2)
    zoo = tmp_path / "zoo"
    (zoo / "cat" / "empty.jpg").touch()
    (zoo / "cat" / "list.jpg").write_text("milk, bread, cat food\n" * 10)
    Image.effect_noise((80, 80), 50).save(zoo / "cat" / "cut.jpg")
    (zoo / "cat" / "cut.jpg").write_bytes((zoo / "cat" / "cut.jpg").read_bytes()[:-300])
    (zoo / "dog" / "notes.txt").write_text("good dogs")
    (zoo / "dog" / "Thumbs.db").write_bytes(b"x")
    (zoo / "dog" / "IMG_1.heic").write_bytes(b"x")
    (zoo / "dog" / ".DS_Store").write_bytes(b"x")
    (zoo / "dog" / "._1.png").write_bytes(b"x")
    (zoo / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (zoo / "__MACOSX").mkdir()
    (zoo / ".git").mkdir()
    (zoo / "wolf").mkdir()
    write("zoo/loose.png")
    (zoo / "README.md").write_text("about")
    images = scan_classes(zoo)
    assert images.classes == ("cat", "dog")
    assert images.counts() == [3, 2]
    reasons = {str(Path(entry.path).relative_to(zoo)): entry.reason for entry in images.skipped}
    assert set(reasons) == {
        *(f"cat/{name}" for name in ("empty.jpg", "list.jpg", "cut.jpg")),
        *(f"dog/{name}" for name in ("notes.txt", "Thumbs.db", "gone.png", "IMG_1.heic")),
        "wolf",
        "loose.png",
    }
    assert "0 bytes" in reasons["cat/empty.jpg"]
    assert "no image of a known format" in reasons["cat/list.jpg"]
    assert "truncated" in reasons["cat/cut.jpg"]
    assert "ending" in reasons["dog/notes.txt"]
    assert "HEIC" in reasons["dog/IMG_1.heic"]
    assert "does not exist" in reasons["dog/gone.png"]
    assert "without a usable image" in reasons["wolf"]
    assert "beside" in reasons["loose.png"]
    split = read_folder(zoo)
    assert len(split.train.skipped) == 9 and split.test.skipped == ()


def test_converted_kinds_are_used(tmp_path: Path, write: Writer) -> None:
    write("all/a/rgba.png", (1, 2, 3, 4), "RGBA")
    write("all/a/palette.png", 3, "P")
    write("all/a/deep.png", 40_000, "I;16")
    write("all/b/print.jpg", (0, 9, 9, 0), "CMYK")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "all/b/moving.gif", save_all=True, append_images=frames[1:])
    images = scan_classes(tmp_path / "all")
    assert images.counts() == [3, 2] and not images.skipped
    assert all(images.image(i).shape[0] == 3 for i in range(5))


def test_absurd_size_is_skipped_with_the_limit(tmp_path: Path, write: Writer) -> None:
    fill(write, "zoo", cat=2)
    Image.new("1", (9000, 8000)).save(tmp_path / "zoo/cat/poster.png")
    (entry,) = scan_classes(tmp_path / "zoo").skipped
    assert "9000 x 8000" in entry.reason and "64,000,000" in entry.reason


def test_names_with_spaces_and_unicode_in_composed_form(tmp_path: Path, write: Writer) -> None:
    decomposed = unicodedata.normalize("NFD", "Käsekuchen")
    for name in ("polar bear", decomposed, "猫", "it's #1 %20"):
        write(f"zoo/{name}/an image ü.png")
    images = scan_classes(tmp_path / "zoo")
    assert set(images.classes) == {"polar bear", "Käsekuchen", "猫", "it's #1 %20"}
    assert decomposed not in images.classes
    assert len(images) == 4


@pytest.mark.parametrize(
    ("one", "other", "how"),
    [
        ("Cat", "cat", "only by case"),
        ("STRASSE", "straße", "only by case"),
        ("caf\u00e9", "cafe\u0301", "only in how Unicode writes them"),
    ],
)
def test_classes_that_one_file_system_would_mix_up(
    tmp_path: Path, write: Writer, one: str, other: str, how: str
) -> None:
    write(f"zoo/{one}/a.png")
    write(f"zoo/{other}/a.png")
    if len(list((tmp_path / "zoo").iterdir())) < 2:
        pytest.skip("this file system mixes them up")
    with pytest.raises(DualLoRAError, match=how) as caught:
        scan_classes(tmp_path / "zoo")
    assert one in str(caught.value) and other in str(caught.value)


def test_links(tmp_path: Path, write: Writer) -> None:
    fill(write, "store", striped=3)
    fill(write, "zoo", cat=2)
    (tmp_path / "zoo" / "tiger").symlink_to(tmp_path / "store" / "striped")
    (tmp_path / "zoo" / "cat" / "again").symlink_to(tmp_path / "zoo" / "cat")
    (tmp_path / "zoo" / "cat" / "up").symlink_to(tmp_path / "zoo" / "cat" / "up")
    images = scan_classes(tmp_path / "zoo")
    assert images.classes == ("cat", "tiger") and images.counts() == [2, 3]


@pytest.mark.parametrize(("link", "goal"), [("cat/up", ".."), ("cat/far", "../.."), ("dots", "."), ("hound", "dog")])
def test_no_image_comes_twice_by_a_link(tmp_path: Path, write: Writer, link: str, goal: str) -> None:
    fill(write, "zoo", cat=2, dog=3)
    write("elsewhere/stray.png")
    (tmp_path / "zoo" / link).symlink_to(goal)
    images = scan_classes(tmp_path / "zoo")
    assert images.classes == ("cat", "dog") and images.counts() == [2, 3]
    (told,) = images.skipped
    assert told.path == str(tmp_path / "zoo" / link)
    assert told.reason == "is a link to a folder that is read in another place, or that holds it"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang_it(tmp_path: Path, write: Writer) -> None:
    fill(write, "zoo", cat=2)
    os.mkfifo(tmp_path / "zoo" / "cat" / "pipe.png")
    assert [entry.reason for entry in scan_classes(tmp_path / "zoo").skipped] == ["is not a regular file"]


# ---------------------------------------------------------------------- training and test part


def names(items: object) -> set[str]:
    assert isinstance(items, tuple)
    return {f"{path.parent.name}/{path.name}" for path in items}


def test_held_out_share_is_stratified_disjoint_and_repeatable(tmp_path: Path, write: Writer) -> None:
    fill(write, "zoo", cat=10, dog=5, ant=2, one=1)
    split = read_folder(tmp_path / "zoo", held_out=0.2, seed=3)
    assert split.train.classes == split.test.classes == ("ant", "cat", "dog", "one")
    assert split.train.counts() == [1, 8, 4, 1]
    assert split.test.counts() == [1, 2, 1, 0]
    assert not names(split.train.items) & names(split.test.items)
    again = read_folder(tmp_path / "zoo", held_out=0.2, seed=3)
    assert again.test.items == split.test.items
    others = [read_folder(tmp_path / "zoo", held_out=0.2, seed=seed).test.items for seed in range(4, 8)]
    assert any(other != split.test.items for other in others)


def test_held_out_images_of_a_class_do_not_depend_on_other_classes(tmp_path: Path, write: Writer) -> None:
    fill(write, "zoo", cat=10, dog=5)
    before = {name for name in names(read_folder(tmp_path / "zoo").test.items) if name.startswith("cat")}
    fill(write, "zoo", ant=7)
    after = {name for name in names(read_folder(tmp_path / "zoo").test.items) if name.startswith("cat")}
    assert before == after


def test_nothing_held_out(tmp_path: Path, write: Writer) -> None:
    fill(write, "zoo", cat=3)
    split = read_folder(tmp_path / "zoo", held_out=0)
    assert len(split.train) == 3 and len(split.test) == 0


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan")])
def test_impossible_share(tmp_path: Path, write: Writer, share: float) -> None:
    fill(write, "zoo", cat=3)
    with pytest.raises(DualLoRAError, match="expected 0 <= share < 1"):
        read_folder(tmp_path / "zoo", held_out=share)


@pytest.mark.parametrize("part", ["test", "val", "Validation"])
def test_parts(tmp_path: Path, write: Writer, part: str) -> None:
    fill(write, "set/train", cat=4, dog=3)
    fill(write, f"set/{part}", dog=2)
    split = read_folder(tmp_path / "set")
    assert split.train.counts() == [4, 3]
    assert split.test.classes == ("cat", "dog") and split.test.counts() == [0, 2]


def test_val_is_not_the_test_set_where_there_is_one(tmp_path: Path, write: Writer) -> None:
    fill(write, "set/train", cat=4)
    fill(write, "set/test", cat=2)
    fill(write, "set/val", cat=3)
    assert len(read_folder(tmp_path / "set").test) == 2


def test_train_part_alone_gives_a_share(tmp_path: Path, write: Writer) -> None:
    fill(write, "set/train", cat=5, dog=5)
    split = read_folder(tmp_path / "set")
    assert split.train.classes == ("cat", "dog") and split.test.counts() == [1, 1]


def test_a_class_may_be_called_train(tmp_path: Path, write: Writer) -> None:
    fill(write, "vehicles", car=5, train=5, test=5)
    assert read_folder(tmp_path / "vehicles").train.classes == ("car", "test", "train")


def test_parts_are_seen_beside_other_folders(tmp_path: Path, write: Writer) -> None:
    fill(write, "set/train", cat=4, dog=4)
    fill(write, "set/test", cat=1, dog=1)
    fill(write, "set", lists=1)
    split = read_folder(tmp_path / "set")
    assert split.train.classes == ("cat", "dog")
    assert (len(split.train), len(split.test)) == (8, 2)
    fill(write, "vehicles/train", steam=3)  # a class with folders in it is no part, as long as they are others
    fill(write, "vehicles/test", rocket=3)
    fill(write, "vehicles", car=3)
    assert scan_classes(tmp_path / "vehicles").classes == ("car", "test", "train")


@pytest.mark.skipif(sys.platform == "darwin", reason="the file system takes no such names")
def test_a_skipped_file_whose_name_is_no_text_can_be_told(tmp_path: Path, write: Writer) -> None:
    fill(write, "zoo", cat=2, dog=2)
    (tmp_path / "zoo" / "cat" / os.fsdecode(b"caf\xe9.txt")).write_text("")
    (skipped,) = scan_classes(tmp_path / "zoo").skipped
    assert skipped.path.endswith("caf\\xe9.txt")
    skipped.path.encode()


def test_test_folder_apart(tmp_path: Path, write: Writer) -> None:
    fill(write, "zoo", cat=4, dog=4)
    fill(write, "new", dog=1)
    split = read_folder(tmp_path / "zoo", test_folder=tmp_path / "new")
    assert len(split.train) == 8 and split.test.labels.tolist() == [1]


def test_a_test_class_nobody_trains(tmp_path: Path, write: Writer) -> None:
    fill(write, "set/train", cat=4, dog=4)
    fill(write, "set/test", Cat=1)
    with pytest.raises(DualLoRAError, match=r"unknown class in the test folder .*'Cat'; did you mean 'cat'"):
        read_folder(tmp_path / "set")


def test_scanning_a_data_set_in_parts_is_refused(tmp_path: Path, write: Writer) -> None:
    fill(write, "set/train", cat=4, dog=4)
    fill(write, "set/test", cat=1)
    with pytest.raises(DualLoRAError, match=r"has train/ and test/ parts.*set/train"):
        scan_classes(tmp_path / "set")


def test_a_folder_of_classes_is_no_folder_of_domains(tmp_path: Path, write: Writer) -> None:
    fill(write, "zoo", cat=2, dog=2)
    with pytest.raises(DualLoRAError, match=r"not domains of class folders; expected .*class-incremental"):
        read_domains(tmp_path / "zoo")


def test_domains(tmp_path: Path, write: Writer) -> None:
    fill(write, "pacs/photo", cat=5, dog=5)
    fill(write, "pacs/sketch", cat=5, dog=10)
    domains = read_domains(tmp_path / "pacs")
    assert list(domains) == ["photo", "sketch"]
    assert domains["sketch"].test.counts() == [1, 2]
    (tmp_path / "none").mkdir()
    with pytest.raises(DualLoRAError, match="no domain folders"):
        read_domains(tmp_path / "none")


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system takes no such name")
def test_a_name_that_is_not_utf8(tmp_path: Path, write: Writer) -> None:
    write(tmp_path / "pets" / "ok" / "0.png")
    bad = os.fsencode(tmp_path / "pets") + b"/bad\xff"
    Path(os.fsdecode(bad)).mkdir()
    with pytest.raises(DualLoRAError, match="is not valid UTF-8; rename it"):
        scan_classes(tmp_path / "pets")
