"""Label smoothing: the loss on paper."""

import pytest
from learners import blobs, plain, system_of

from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.defenses.label_smoothing import LabelSmoothing
from robustbench_lite.errors import UserError


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_the_loss_is_the_one_on_paper(smoothing):
    data, model = blobs(), plain().requires_grad_(False)
    logs = model(data.batch(range(96))).log_softmax(1)
    own = logs.gather(1, data.labels_at(range(96))[:, None]).mean()
    expected = -(1 - smoothing) * own - smoothing * logs.mean()
    defense = LabelSmoothing(smoothing=smoothing, epochs=1, batch_size=96)
    told = defense.defend(system_of(model), Workshop(train=data)).notes["training"]
    assert told["last"]["loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("smoothing", ["-0.1", "1", "2"])
def test_a_share_out_of_range_is_refused(smoothing):
    with pytest.raises(UserError, match="accepted: a share from 0 to below 1"):
        resolve_defense(f"label-smoothing:smoothing={smoothing}")
