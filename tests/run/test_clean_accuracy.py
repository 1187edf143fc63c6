"""A clean accuracy that cannot be meant is told before any attack, with its cure; an honest one never is."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from toys import samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.results.diagnostics import Diagnostic
from robustbench_lite.run.clean_accuracy import clean_accuracy
from robustbench_lite.run.cures import Cure, _options, _Said, _set_against
from robustbench_lite.run.matches import as_many_by_chance
from robustbench_lite.run.reporter import Silent
from robustbench_lite.run.subject import prepare
from robustbench_lite.system import System
from robustbench_lite.zoo.adapt import Normalized


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=6), st.integers(0, 6))
def test_agreement_by_chance_is_counted_exactly(pairs: list[tuple[int, int]], right: int) -> None:
    answers, labels = (np.array(side) for side in zip(*pairs, strict=True))
    orders = [(np.array(order) == labels).sum() >= right for order in itertools.permutations(answers)]
    assert as_many_by_chance(answers, labels, right) == pytest.approx(np.mean(orders))


def test_agreement_by_chance_of_many_images_is_nearly_exact() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 5, 400)
    answers = np.where(draw.random(400) < 0.1, labels, draw.integers(0, 5, 400))
    right = int((answers == labels).sum())
    told = as_many_by_chance(answers, labels, right)
    shuffled = [(draw.permutation(answers) == labels).sum() >= right for _ in range(4000)]
    assert told == pytest.approx(np.mean(shuffled), abs=0.02)
    assert as_many_by_chance(np.ones(500, dtype=int), draw.integers(0, 2, 500), 200) in (0.0, 1.0)


class Answers(nn.Module):
    """Says of the n-th image, whose first pixel is n / 1000, what it is told to."""

    def __init__(self, answers: list[int], classes: int) -> None:
        super().__init__()
        self.classes, self.answers = classes, torch.tensor(answers)

    def forward(self, x: Tensor) -> Tensor:
        number = (x[:, 0, 0, 0] * 1000).round().long().clamp(0, len(self.answers) - 1)
        return nn.functional.one_hot(self.answers[number], self.classes).float() + 0 * x.flatten(1).mean(1)[:, None]


def checked(labels: list[int], answers: list[int], classes: int = 3, **notes: Any) -> Diagnostic:
    x = torch.full((len(labels), 1, 2, 2), 0.5)
    x[:, 0, 0, 0] = torch.arange(len(labels)) / 1000
    system = System(model=Answers(answers, classes), num_classes=classes, input_shape=(1, 2, 2), notes=notes)
    return of(system, x, torch.tensor(labels))


def of(system: System, x: Tensor, y: Tensor, **notes: Any) -> Diagnostic:
    data = replace(from_tensors(x, y), name="small")
    subject = prepare(
        model="m",
        defense="none",
        system=system.with_notes(notes) if notes else system,
        data=data,
        indices=np.arange(len(x)),
        seed=0,
        device=torch.device("cpu"),
        adaptive=True,
    )
    return clean_accuracy(subject)


MANY = [0, 1, 2] * 20


@pytest.mark.parametrize(
    "labels, answers, status, words",
    [
        (MANY, MANY, "clear", ""),
        (MANY, [0] * 60, "fired", "always answers class 0"),
        (MANY, [1, 2, 0] * 20, "fired", "no better than chance"),
        ([1] * 36 + [0] * 4, [1] * 40, "fired", "clean accuracy 90.0 %; it always answers class 1"),
        ([1] * 36 + [0] * 4, [1] * 38 + [0] * 2, "clear", ""),  # imbalanced, and as good as it should be
        ([1] * 39 + [0] * 1, [1] * 40, "clear", ""),  # 97.5 %: one image of the other class proves nothing
        ([2] * 30, [2] * 27 + [0] * 3, "unchecked", ""),  # a slice of one class
        ([2] * 30, [1] * 30, "fired", "always answers class 1"),
        ([0, 1], [1, 0], "unchecked", "too few"),
        ([0], [0], "clear", ""),
    ],
)
def test_what_is_no_better_than_chance_is_told(labels: list[int], answers: list[int], status: str, words: str) -> None:
    found = checked(labels, answers)
    if status == "unchecked" and not words:
        assert found.status != "fired"
        return
    assert (found.status, words in found.detail) == (status, True), found.detail


@pytest.mark.parametrize(
    "told, dataset, status",
    [
        (0.99, "small", "fired"),
        (0.99, "Small", "fired"),
        (0.99, "other", "clear"),
        (0.84, "small", "clear"),
        (0.7, "small", "clear"),
    ],
)
def test_a_clean_accuracy_far_below_the_card_is_told(told: float, dataset: str, status: str) -> None:
    answers = [(label + (place % 5 == 0)) % 3 for place, label in enumerate(MANY)]  # 80 %
    found = checked(MANY, answers, told={"clean_acc": told, "dataset": dataset, "source": "the card"})
    assert found.status == status
    assert ("the card tells 99.0 %" in found.detail) is (status == "fired")


def test_what_was_asked_for_with_random_weights_is_not_checked() -> None:
    found = checked(MANY, [0] * 60, random=True)
    assert (found.status, "random weights" in found.detail) == ("unchecked", True)


class Split(nn.Module):
    """Three classes by the mean of the pixels, at -0.5 and 0.5; learned on pixels from -1 to 1."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        level = (x / self.scale).flatten(1).mean(1)
        return torch.stack((-((level + 0.7) ** 2), -(level**2), -((level - 0.7) ** 2)), 1) * 10


def levels(count: int = 60) -> tuple[Tensor, Tensor]:
    y = torch.arange(count) % 3
    noise = torch.rand((count, 1, 4, 4), generator=torch.Generator().manual_seed(0)) * 0.1
    return (torch.tensor([0.12, 0.45, 0.8])[y].view(-1, 1, 1, 1) + noise).clamp(0, 1), y


@pytest.mark.parametrize(
    "model, words",
    [
        (Split(), "normalised by mean 0.507, std 0.28: add ;mean=(0.507);std=(0.28) to the model"),
        (Normalized(Split(), (0.1,), (0.2,)), "normalised by mean"),
    ],
)
def test_pixels_that_a_model_was_not_trained_on_are_told_with_their_cure(model: nn.Module, words: str) -> None:
    x, y = levels()
    found = of(System(model=model, num_classes=3, input_shape=(1, 4, 4)), x, y)
    assert found.status == "fired"
    assert words in found.detail


@pytest.mark.parametrize(
    "model, told",
    [
        ("net.py:make;weights=net.pt", "add ;mean=(0);std=(1) to the model"),
        ("net.py:make;normalize=cifar10;weights=net.pt", "write mean=(0);std=(1) instead of normalize=cifar10"),
        (
            "wrn:depth=10,mean=(0.1,0.2,0.3),std=(1,1,1)",
            "write mean=(0);std=(1) instead of mean=(0.1,0.2,0.3);std=(1,1,1)",
        ),
    ],
)
def test_a_cure_is_written_as_the_models_options_are(model: str, told: str) -> None:
    assert _options(model, "mean=(0);std=(1)") == told


class Mnist(Split):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 0.3081 + 0.1307 - 0.46) / 0.35)


def test_the_constants_of_a_usual_set_of_grey_images_are_tried() -> None:
    x, y = levels()
    found = of(System(model=Mnist(), num_classes=3, input_shape=(1, 4, 4)), x, y)
    assert "normalised by mean 0.131, std 0.308: add ;mean=(0.131);std=(0.308) to the model" in found.detail


@pytest.mark.parametrize("share, words", [(0.25, False), (0.9, True)])
def test_a_cure_that_leaves_most_answers_wrong_is_no_cause(share: float, words: bool) -> None:
    labels = list(range(10)) * 30
    draw = np.random.default_rng(0)
    others = [(label + draw.integers(2, 10)) % 10 for label in labels]
    answers = [
        (label + 1) % 10 if draw.random() < share else int(other) for label, other in zip(labels, others, strict=True)
    ]
    found = checked(labels, answers, 10)
    assert found.status == "fired"
    assert ("shifted by -1" in found.detail) is words
    assert "another order" not in found.detail


@pytest.mark.parametrize("after, helps", [(60, False), (76, True), (98, True)])
def test_a_cure_that_leaves_most_of_the_wrong_answers_is_none(after: int, helps: bool) -> None:
    ranks = np.arange(100)
    found = _set_against(Cure(means="", do=""), _Said(right=ranks < 40), _Said(right=ranks < after), 10)
    assert (found is not None) is helps


class To255(Split):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x / 255 - 0.5) / 0.5)


def test_pixels_to_255_are_told() -> None:
    x, y = levels()
    found = of(System(model=To255(), num_classes=3, input_shape=(1, 4, 4)), x, y)
    assert "if pixels are from 0 to 255: add ;mean=(0);std=(1/255) to the model" in found.detail


class Colours(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * torch.tensor([1.0, 1.0, 1.2])


def test_colours_in_another_order_are_told() -> None:
    y = torch.arange(60) % 3
    x = torch.full((60, 3, 2, 2), 0.3)
    x[torch.arange(60), 2 - y] = 0.6  # blue, green, red
    found = of(System(model=Colours(), num_classes=3, input_shape=(3, 2, 2)), x, y)
    assert "blue, green, red" in found.detail


@pytest.mark.parametrize(
    "order, classes, words",
    [
        (lambda label: (label + 1) % 12, 12, "shifted by -1"),
        (lambda label: (label - 3) % 12, 12, "shifted by +3"),
        (lambda label: sorted(range(12), key=str).index(label), 12, "sorted as text"),
        (lambda label: [3, 1, 4, 0, 5, 9, 2, 6, 8, 7, 11, 10][label], 12, "in another order (0 is 3,"),
    ],
)
def test_other_numbers_of_the_classes_are_told(order: Any, classes: int, words: str) -> None:
    labels = list(range(12)) * 20
    found = checked(labels, [order(label) for label in labels], classes)
    assert found.status == "fired"
    assert words in found.detail


def test_a_part_of_a_larger_head_is_told() -> None:
    class Padded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            scores = Split()((x - 0.5) / 0.5)
            return torch.cat((scores[:, :1] + 9, scores, scores[:, :1] + 9), 1)

    x, y = levels()
    found = of(System(model=Padded(), num_classes=5, input_shape=(1, 4, 4)), x, y)
    assert "if outputs 1 to 3 of its 5 are the classes" in found.detail


def test_it_is_told_before_any_attack_and_kept_as_a_check() -> None:
    told: list[str] = []

    class Listening(Silent):
        def note(self, text: str) -> None:
            told.append(f"note {text}")

        def begin(self, text: str, total: int) -> None:
            told.append(f"begin {text}")

    x, y = levels()
    result = rbl.evaluate(Split(), x, y, attacks="noise:draws=2", threat="Linf:0.05", reporter=Listening())
    assert told[0].startswith("note Split: clean accuracy")
    row = result.diagnostics.set_index("diagnostic").loc["clean-accuracy"]
    assert (row["status"], told[0].endswith(row["detail"])) == ("fired", True)
    assert "clean-accuracy" in result.table["flags"].iloc[0].split(";")


def test_nothing_is_tried_where_clean_accuracy_is_high_and_nobodys_generator_is_touched() -> None:
    system = two_layers()
    x, y, _ = samples(system, 40)
    asked: list[int] = []
    system.model.register_forward_hook(lambda module, inputs, output: asked.append(len(inputs[0])))
    state = torch.random.get_rng_state()
    assert of(system, x, y).status == "clear"
    assert torch.equal(state, torch.random.get_rng_state())
    before = len(asked)
    clear = of(system, x, y)
    assert (clear.status, len(asked) - before) == ("clear", before)
