"""DualGPM against its rules written out in numpy, and what designed directions promise."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duallora.lowrank.dualgpm import DualGPM


def moments(count: int, d: int, rank: int, seed: int) -> list[torch.Tensor]:
    """Second moments of `rank` directions each, of falling strength, different for each task."""
    g = torch.Generator().manual_seed(seed)
    strengths = 0.7 ** torch.arange(rank)
    x = [torch.randn(4 * d, rank, generator=g) * strengths @ torch.randn(rank, d, generator=g) for _ in range(count)]
    return [(t.T @ t / len(t)).double() for t in x]


def by_the_rules(Cs: list[torch.Tensor], thresholds: list[float], dual: bool) -> list[tuple[str, np.ndarray]]:
    """Mode and basis after each task: loops over singular values as InfLoRA's public code is described; not our code.

    Without `dual` the basis is never exchanged for its complement, which is plain GPM.
    """
    states: list[tuple[str, np.ndarray]] = []
    mode, F = "remove", np.zeros((len(Cs[0]), 0))
    for C, eps in zip([C.numpy() for C in Cs], thresholds, strict=True):
        d, total = len(C), np.square(C).sum()
        if not F.shape[1]:
            U, S, _ = np.linalg.svd(C)
            r = max(int((np.cumsum(S**2) / total < eps).sum()), 1)
            F = U[:, :r]
        elif mode == "remove":
            R = C - F @ F.T @ C
            U, S, _ = np.linalg.svd(R)
            held, r = (total - np.square(R).sum()) / total, 0
            while held < eps:
                held, r = held + S[r] ** 2 / total, r + 1
            F = np.concatenate([F, U[:, :r]], 1)
        else:
            R = F @ F.T @ C
            U, S, _ = np.linalg.svd(R)
            free, r = np.square(R).sum() / total, 0
            while free >= 1 - eps:
                free, r = free - S[r] ** 2 / total, r + 1
            F = np.linalg.svd(F - U[:, :r] @ U[:, :r].T @ F)[0][:, : F.shape[1] - r]
        if dual and mode == "remove" and F.shape[1] > d / 2:
            mode, F = "retain", np.linalg.svd(F)[0][:, F.shape[1] :]
        states.append((mode, F))
    return states


def same_span(found: torch.Tensor, wanted: np.ndarray) -> bool:
    F = found.double().numpy()
    return F.shape == wanted.shape and np.allclose(F @ F.T, wanted @ wanted.T, atol=1e-5)


def test_update_follows_the_rules_through_the_switch() -> None:
    Cs, thresholds = moments(6, 12, 5, seed=1), [0.9, 0.92, 0.95, 0.97, 0.98, 0.99]
    wanted = by_the_rules(Cs, thresholds, dual=True)
    assert {mode for mode, _ in wanted} == {"remove", "retain"}  # else the case tests nothing
    assert wanted[-1][1].shape[1] < wanted[-2][1].shape[1]  # something is taken in mode retain
    space = DualGPM(12)
    for C, eps, (mode, F) in zip(Cs, thresholds, wanted, strict=True):
        space.update(C, eps)
        assert space.mode == mode
        assert same_span(space.basis, F)


def test_the_complement_stands_for_the_same_space() -> None:
    """Whichever of the two is stored, designs and what counts as used are those of plain GPM."""
    Cs, thresholds = moments(6, 12, 5, seed=2), [0.95] * 6
    plain = by_the_rules(Cs, thresholds, dual=False)
    space = DualGPM(12)
    for t, C in enumerate(Cs):
        if t and plain[t - 1][1].shape[1] < 11:
            F = plain[t - 1][1]
            U = np.linalg.svd(C.numpy() - F @ F.T @ C.numpy())[0]
            assert same_span(space.design(C, 1).T, U[:, :1])
        space.update(C, thresholds[t])
        assert space.used == plain[t][1].shape[1]
        assert space.basis.shape[1] <= 6
    assert space.retain


def test_design_is_the_leading_left_singular_vectors() -> None:
    C1, C2 = moments(2, 10, 4, seed=3)
    space = DualGPM(10)
    down = space.design(C1, 3).numpy()
    U = np.linalg.svd(C1.numpy())[0][:, :3]
    assert np.allclose(np.abs((down @ U).diagonal()), 1)
    space.update(C1, 1 - 1e-12)
    F = space.basis.double().numpy()
    U = np.linalg.svd(C2.numpy() - F @ F.T @ C2.numpy())[0][:, :3]
    down = space.design(C2, 3).numpy()
    assert np.allclose(np.abs((down @ U).diagonal()), 1, atol=1e-6)
    assert np.abs(down @ F).max() < 1e-6  # nothing of the first task is read


def test_what_is_not_there_is_zero_and_not_a_direction_of_another_task() -> None:
    C1, C2 = torch.diag(torch.tensor([3.0, 2.0, 0.0, 0.0, 0.0])), torch.diag(torch.tensor([4.0, 0.0, 1.0, 0.0, 0.0]))
    space = DualGPM(5)
    space.update(C1, 1.0)
    down = space.design(C2, 4)
    torch.testing.assert_close(down[0].abs(), torch.eye(5, dtype=torch.float64)[2])
    assert down[1:].abs().sum() == 0


@given(st.integers(2, 16), st.integers(1, 6), st.floats(0.3, 1.0), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_bases_stay_orthonormal_and_small(d: int, count: int, eps: float, seed: int) -> None:
    space, used = DualGPM(d), 0
    for C in moments(count, d, max(d // 2, 1), seed):
        space.update(C, eps)
        k = space.basis.shape[1]
        gram = space.basis.double().T @ space.basis.double()
        torch.testing.assert_close(gram, torch.eye(k, dtype=torch.float64), atol=1e-5, rtol=0)
        assert 2 * k <= d
        assert used <= space.used <= d
        used = space.used


def test_no_images_change_nothing_and_a_full_space_gives_no_direction() -> None:
    space = DualGPM(4)
    space.update(torch.zeros(4, 4), 0.9)
    assert (space.used, space.mode) == (0, "remove")
    space.update(torch.eye(4), 1.0)
    assert (space.used, space.mode) == (3, "retain")  # a first task stays below the threshold
    space.update(torch.eye(4), 1.0)
    assert (space.used, space.mode, space.basis.shape[1]) == (4, "retain", 0)
    assert space.design(torch.eye(4), 2).abs().sum() == 0
    space.update(torch.eye(4), 1.0)
    other = DualGPM(4)
    other.load_state(space.state())
    assert (other.used, other.mode) == (4, "retain")


def test_shares_are_of_squared_singular_values() -> None:
    """Data of singular values 3, 2, 1 have moments 9, 4, 1 and shares 81, 16, 1 of 98."""
    for eps, used in ((81 / 98 + 0.01, 1), (97 / 98 - 0.01, 1), (97 / 98 + 0.005, 2)):
        space = DualGPM(8)
        space.update(torch.diag(torch.tensor([9.0, 4.0, 1.0] + [0.0] * 5)), eps)
        assert space.used == used
