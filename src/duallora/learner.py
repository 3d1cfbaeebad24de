"""Learner, the face of the library: create, learn, predict, evaluate, save, load."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ValidationError

from duallora.answers import Evaluation, LearnReport, Prediction, SkippedImage
from duallora.artefact import load_artefact, save_artefact
from duallora.backbone import Backbone, bundled, load_backbone
from duallora.config import ModelConfig, RunConfig, for_method
from duallora.data import ImageSet, from_arrays, scan_classes
from duallora.data.batches import Batches
from duallora.data.images import Source as Image
from duallora.data.images import decode, listed
from duallora.errors import DualLoRAError
from duallora.files import user_path
from duallora.methods import Method, TaskInfo, get_method
from duallora.settings import validated
from duallora.task_names import task_name
from duallora.training.device import Session, choose_device
from duallora.training.loop import OnDevice, learn_task
from duallora.training.settings import TrainingSettings

Source = str | Path | ImageSet | tuple[Any, Any]
RENEWED = (
    "those in the package have changed since: learn the classes again, or take the version of duallora that made it"
)
WEIGHTS = "give the file: weights=FILE, in a shell --weights FILE, to learn on --set backbone.weights=FILE"
TASK_SEED = 10_007  # tasks of one learner draw from streams this far apart


class Learner:
    """A classifier that learns task after task on one frozen backbone and keeps no image.

    >>> learner = Learner.create()                            # doctest: +SKIP
    >>> learner.learn("animals/")                             # doctest: +SKIP
    >>> learner.predict(["photo.jpg"])[0].label               # doctest: +SKIP
    """

    def __init__(
        self,
        backbone: Backbone,
        method: Method,
        training: TrainingSettings,
        *,
        seed: int,
        device: str,
        origin: Mapping[str, Any],
    ) -> None:
        """Use `Learner.create` or `Learner.load`; `origin` says how the backbone was loaded."""
        self.device = choose_device(device)
        self.backbone, self.method, self.training, self.seed = backbone, method.to(self.device), training, seed
        self.origin = dict(origin)
        self.classes: list[str] = []
        self.tasks: list[dict[str, Any]] = []  # name, classes, images
        self.trained = 0  # parameters that the last task trained
        self._unfinished: str | None = None  # a task that broke off half-way
        self._home: tuple[Path, str] | None = None  # the folder that it was loaded from or saved to, as it was then
        self._session = Session.of(training.precision, self.device)

    @classmethod
    def create(
        cls,
        backbone: str = "bundled",
        method: str = "duallora",
        *,
        config: Mapping[str, Any] | BaseModel | None = None,
        training: TrainingSettings | Mapping[str, Any] | None = None,
        seed: int = 0,
        device: str = "auto",
        weights: str | Path | None = None,
        pretrained: bool = True,
        image_size: int | None = None,
        levels: int | None = None,
        normalise: bool = True,
    ) -> Self:
        """A learner that knows nothing yet.

        Args:
            backbone: "bundled", or a timm name such as "vit_base_patch16_224.augreg_in21k".
            method: one of `list_methods()`.
            config: options of the method.
            training: settings of the loop; what is not set is as the method does best.
            seed: of everything random, 0 to 2**32 - 1.
            device: "auto", "cpu", "cuda", ...
            weights: a local file with the backbone's weights.
            pretrained: False leaves the backbone untrained (tests).
            image_size: input size in pixels where it is not the backbone's own.
            levels, normalise: see `load_backbone`.

        Raises:
            DualLoRAError: an unknown name or option, or a backbone that cannot be had.
        """
        kind = get_method(method)
        settings = for_method(validated(TrainingSettings, training or {}, "training"), kind.recommended)
        options = validated(kind.Config, config or {}, f"method {method}")
        seed = _checked_seed(seed)
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers go on as they would have
            torch.default_generator.manual_seed(seed)  # of an untrained backbone, so that a saved model finds it again
            loaded = load_backbone(
                backbone,
                weights=weights,
                pretrained=pretrained,
                image_size=image_size,
                levels=levels,
                normalise=normalise,
            )
            _check_ranks(options, loaded)
            torch.default_generator.manual_seed(seed)
            learns = kind(loaded, options)
        origin = {
            "name": loaded.name,  # with the tag of the weights that timm chose: it may choose others one day
            "weights": None if weights is None else str(user_path(weights).absolute()),
            "pretrained": pretrained,
            "image_size": image_size,
            "levels": loaded.levels,
            "normalise": normalise,
        }
        return cls(loaded, learns, settings, seed=seed, device=device, origin=origin)

    @classmethod
    def of(cls, config: RunConfig | ModelConfig) -> Self:
        """A learner as a configuration describes it; see `create`."""
        return cls.create(
            config.backbone.name,
            config.method.name,
            config=config.method.options,
            training=config.training,
            seed=config.seed,
            device=config.device,
            weights=config.backbone.weights,
            pretrained=config.backbone.pretrained,
            image_size=config.backbone.image_size,
            levels=config.backbone.levels,
            normalise=config.backbone.normalise,
        )

    # ------------------------------------------------------------------ learning

    def learn(self, source: Source, *, name: str | None = None, progress: bool = True) -> LearnReport:
        """Learn a task: new classes, or known classes in a new guise.

        Args:
            source: a folder of class folders, an ImageSet, or (images, labels).
            name: of the task, one that no other task has; the folder's name, or "task <n>".
            progress: whether to show it.

        Raises:
            DualLoRAError: nothing to learn from; a name that is taken or no plain text; a method that needs all images
                at once. After an error, or Ctrl-C, the
                learner can no longer be used (the next call says so): load the last saved state, which is intact.
        """
        if self.method.cumulative:
            raise DualLoRAError(
                f"method '{self.method.name}' needs the images of all tasks at once and serves comparisons only; "
                "create the learner with method='duallora', or use `duallora run`"
            )
        images = self._images(source)
        if not images.in_memory:
            self._check_case(images.classes)
        return self._learn(images, self.task_name(source, name), (), progress)

    def learn_jointly(self, sets: Sequence[ImageSet], *, name: str, progress: bool = True) -> LearnReport:
        """For cumulative methods: learn from the images of all tasks so far, the newest last."""
        members = tuple(tuple(self._index(images.classes)) for images in sets)
        apart = [
            ImageSet(tuple(f"{t}: {c}" for c in images.classes), images.labels, images.items, images.skipped)
            for t, images in enumerate(sets)
        ]
        return self._learn(ImageSet.concat(apart), name, members, progress, shown=sets[-1])

    def _learn(
        self,
        images: ImageSet,
        name: str,
        members: tuple[tuple[int, ...], ...],
        progress: bool,
        shown: ImageSet | None = None,
    ) -> LearnReport:
        self._must_be_whole()
        if not len(images):
            raise DualLoRAError("there are no images to learn from; give at least one")
        before = len(self.classes)
        told = shown or images
        index = self._index(told.classes)
        labels = range(len(images.classes)) if members else index
        number = len(self.tasks)
        info = TaskInfo(number, tuple(index), len(images), members)
        try:
            timing = learn_task(
                self.method,
                info,
                images,
                torch.tensor(labels),
                self.backbone.preprocessing,
                self.training,
                self._session,
                seed=self.seed + TASK_SEED * number,
                title=f"{self.method.name}: task {number + 1}",
                progress=progress,
            )
        except BaseException:
            del self.classes[before:]
            self._unfinished = name
            raise
        self.trained = timing.parameters
        self.tasks.append({"name": name, "classes": list(told.classes), "images": len(told)})
        return LearnReport(
            task=name,
            classes=list(told.classes),
            images=len(images),
            skipped=[SkippedImage(path=s.path, reason=s.reason) for s in images.skipped],
            seconds=timing.seconds,
            loss=timing.loss,
            capacity=self.method.log.capacity,
            notes=self.method.log.notes,
        )

    def _check_case(self, names: Sequence[str]) -> None:
        """Refuse a folder 'Cat' where 'cat' is known: a slip of the keyboard would make two classes of one."""
        known = {name.casefold(): name for name in self.classes}
        for name in names:
            if name not in self.classes and (other := known.get(name.casefold(), name)) != name:
                raise DualLoRAError(
                    f"class '{name}' differs only by case from '{other}', which this model knows; rename it '{other}' "
                    "to learn that class further, or give it a name of its own"
                )

    def _index(self, names: Sequence[str]) -> list[int]:
        """Indices of class names, new ones appended."""
        for name in names:
            if name not in self.classes:
                self.classes.append(name)
        return [self.classes.index(name) for name in names]

    def _images(self, source: Source) -> ImageSet:
        if isinstance(source, ImageSet):
            return source
        if isinstance(source, str | Path):
            return scan_classes(source)
        if isinstance(source, tuple | list) and len(source) == 2:
            return from_arrays(*source)
        raise DualLoRAError(
            f"a {type(source).__name__} is no source of images; give a folder of class folders, an ImageSet, or "
            "(images, labels)"
        )

    def task_name(self, source: Source, name: str | None = None) -> str:
        """The name of the next task: `name`, else that of the source's folder, else "task <n>".

        Raises:
            DualLoRAError: another task has the name, or it is no text that can be shown and saved.
        """
        own = user_path(source).resolve().name if isinstance(source, str | Path) else ""
        return task_name(name, own, [task["name"] for task in self.tasks])

    # ------------------------------------------------------------------ answering

    def predict(
        self, images: Image | Iterable[Image], *, batch_size: int | None = None, top: int = 5
    ) -> list[Prediction]:
        """Answer for images, over all classes seen so far.

        Args:
            images: paths, PIL images, uint8 arrays (H, W, 3) or tensors (3, H, W); several, or one.
            batch_size: images per pass.
            top: how many of the likeliest labels to name.

        Raises:
            DualLoRAError: nothing was learned yet, or an image cannot be read (it is named).
        """
        self._must_have_learned()
        for what, value in (("batch_size", batch_size), ("top", top)):
            if value is not None and value < 1:
                raise DualLoRAError(f"{what} is {value}, expected 1 or more")
        images = listed(images)
        answers: list[Prediction] = []
        size = batch_size or self.training.images_per_pass(self._session.device.type)
        for at in range(0, len(images), size):
            chunk = images[at : at + size]
            x = torch.stack([self.backbone.preprocessing.apply(decode(image)) for image in chunk])
            with torch.no_grad(), self._session.autocast():
                output = self.method(x.to(self.device))
                distance = output.distance
            scores = torch.softmax(self.method.rows.class_scores(output.rows.float()), 1).cpu()
            tasks = (output.tasks if output.tasks is not None else self.method.rows.task_scores(output.rows)).argmax(1)
            names = [self.tasks[task]["name"] for task in tasks.tolist()]  # all at once: a GPU is waited for each time
            known: list[bool | None] = [None] * len(chunk) if distance is None else (distance <= 1).tolist()
            values, order = scores.topk(min(top, scores.shape[1]), 1)
            for i, image in enumerate(chunk):
                ranked = [(self.classes[c], float(v)) for c, v in zip(order[i], values[i], strict=True)]
                answers.append(
                    Prediction(
                        path=str(image) if isinstance(image, str | Path) else None,
                        label=ranked[0][0],
                        confidence=min(max(ranked[0][1], 0.0), 1.0),
                        task=names[i],
                        known=known[i],
                        top=ranked,
                    )
                )
        return answers

    def evaluate(self, source: Source) -> Evaluation:
        """Measure on labelled images: a folder of class folders, an ImageSet, or (images, labels).

        Raises:
            DualLoRAError: nothing was learned yet, or a class that the learner does not know.
        """
        from duallora.evaluation.scoring import score_images

        self._must_have_learned()
        images = self._images(source)
        if not len(images):
            raise DualLoRAError("there are no images to evaluate on; give at least one")
        strange = [c for c in images.classes if c not in self.classes]
        if strange:
            near = difflib.get_close_matches(strange[0], self.classes, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}' by '{strange[0]}'? " if near else ""
            raise DualLoRAError(
                f"unknown classes {strange[:5]}; {hint}This model knows {len(self.classes)}: {self.classes[:10]}. "
                "Learn them first, or leave their images out"
            )
        scored = score_images(self.method, self.batches(images))
        named = {self.classes[c]: v for c, v in scored.per_class.items()}
        return Evaluation(
            images=len(images),
            accuracy=scored.accuracy,
            per_class=named,
            task_il=scored.task_il,
            task_id_accuracy=scored.task_id,
            calibration_error=scored.calibration,
            skipped=[SkippedImage(path=s.path, reason=s.reason) for s in images.skipped],
        )

    def batches(self, images: ImageSet) -> OnDevice:
        """Evaluation batches of images, labels as indices into `classes`, on the device."""
        index = torch.tensor([self.classes.index(c) for c in images.classes])
        settings = self.training
        held = Batches(
            images,
            self.backbone.preprocessing,
            batch_size=settings.images_per_pass(self._session.device.type),
            label_map=index,
            workers=settings.workers,
        )
        return OnDevice(held, self._session)

    def _must_be_whole(self) -> None:
        if self._unfinished is not None:
            raise DualLoRAError(
                f"learning '{self._unfinished}' broke off half-way, so this learner is neither before nor after it; "
                "go on from the last saved state: Learner.load(FOLDER)"
            )

    def _must_have_learned(self) -> None:
        self._must_be_whole()
        if not self.tasks:
            raise DualLoRAError(
                "this model has not learned anything yet; give it a folder first: duallora learn MODEL FOLDER"
            )

    @property
    def capacity(self) -> list[float] | None:
        """Used share of the directions of each adapted map, in [0, 1]; None where the method has no such notion."""
        return getattr(self.method, "capacity", None)

    # ------------------------------------------------------------------ keeping

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model as a folder of tensors and JSON; complete, or not at all.

        Raises:
            DualLoRAError: the folder exists and `overwrite` is False, or it cannot be written; it is the one that was
                loaded and somebody else has saved it since; or learning broke off half-way.
        """
        self._must_be_whole()
        folder = user_path(folder)
        replaces = self._home[1] if self._home and folder.resolve() == self._home[0] else None
        manifest: dict[str, Any] = {
            "backbone": self.origin
            | {"sha256": self.backbone.sha256, "preprocessing": self.backbone.preprocessing.to_json()},
            "method": {"name": self.method.name, "options": self.method.config.model_dump(mode="json")},
            "training": self.training.model_dump(mode="json"),
            "seed": self.seed,
            "classes": self.classes,
            "tasks": self.tasks,
            "capacity": self.capacity,  # for people only: it follows from the tensors
        }
        checksum = save_artefact(folder, self.method.state(), manifest, overwrite=overwrite, replaces=replaces)
        self._home = (folder.resolve(), checksum)
        return folder

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str = "auto",
        weights: str | Path | None = None,
        training: TrainingSettings | Mapping[str, Any] | None = None,
    ) -> Self:
        """Read a model; it predicts as it did, and learns on as it would have.

        Args:
            folder: written by `save`.
            device: where to put it.
            weights: the backbone's weights, where they moved since.
            training: settings of the loop for the tasks to come, instead of those that the model was saved with.

        Raises:
            DualLoRAError: a missing, altered or foreign file, a newer format, or other weights than the model was
                trained on.
        """
        folder = user_path(folder)
        tensors, manifest = load_artefact(folder)
        home = (folder.resolve(), str(manifest["checksum"]))  # of what was read, not of what lies there by now
        try:
            origin, held = manifest["backbone"], manifest["method"]
            name, options = held["name"], held["options"]
            classes, tasks = list(manifest["classes"]), list(manifest["tasks"])
            settings = TrainingSettings(**manifest["training"]) if training is None else training
            arguments = {k: origin[k] for k in ("name", "weights", "pretrained", "image_size", "levels")}
        except (KeyError, TypeError, ValidationError) as error:
            raise DualLoRAError(
                f"{folder}/duallora.json lacks or garbles {error}; the model was not written by duallora"
            ) from error
        if weights is not None:
            arguments["weights"] = str(weights)
        elif arguments["weights"] is not None and not Path(arguments["weights"]).is_file():
            raise DualLoRAError(
                f"the weights of {folder}'s backbone, '{arguments['weights']}', are not there any more; {WEIGHTS}"
            )
        learner = cls.create(
            arguments["name"],
            name,
            config=options,
            training=settings,
            seed=manifest["seed"],
            device=device,
            weights=arguments["weights"],
            pretrained=arguments["pretrained"],
            image_size=arguments["image_size"],
            levels=arguments["levels"],
            normalise=origin.get("normalise", True),  # models of before there was a choice
        )
        if learner.backbone.sha256 != origin["sha256"]:
            changed = arguments["name"] == bundled.NAME and arguments["weights"] is None and arguments["pretrained"]
            raise DualLoRAError(
                f"{folder} was trained on weights {origin['sha256'][:12]} of {arguments['name']}, but those loaded are "
                f"{learner.backbone.sha256[:12]}; {RENEWED if changed else WEIGHTS}"
            )
        learner.classes, learner.tasks, learner._home = classes, tasks, home
        try:
            learner.method.restore(dict(tensors))
        except DualLoRAError as error:
            raise DualLoRAError(f"{folder}/model.safetensors does not fit its duallora.json: {error}") from error
        learner.method.to(learner.device)
        return learner


def _checked_seed(seed: int) -> int:
    """What both torch and numpy take for a seed, as a number that a manifest can hold."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise DualLoRAError(f"seed is {seed!r}; give a whole number from 0 to {2**32 - 1}")
    return int(seed)


def _check_ranks(options: BaseModel, backbone: Backbone) -> None:
    """A product of factors has no rank above the width of what it maps."""
    for key, value in options:
        if (key == "rank" or key.endswith("_rank")) and isinstance(value, int) and value > backbone.dim:
            raise DualLoRAError(
                f"{key} is {value}, more than the width {backbone.dim} of backbone '{backbone.name}'; 4 to 64 are usual"
            )
