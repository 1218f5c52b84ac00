"""The output layers: which logits they leave, what they learn, and their errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clpack.strategies import IncrementalCosineClassifier, TaskMaskedModel, with_head


def adapt(model, stream):
    from avalanche.models.dynamic_modules import avalanche_model_adaptation

    for experience in stream.train_stream:
        avalanche_model_adaptation(model, experience)
    return model


def evaluate(model, experience):
    from avalanche.models.dynamic_modules import avalanche_model_adaptation

    model.eval()
    avalanche_model_adaptation(model, experience)
    model.train()


def test_masked_head_leaves_the_classes_of_each_samples_task(make_stream, make_model):
    plain = make_model()
    model = adapt(with_head(plain, "masked"), make_stream(5, task_labels=True))
    images = torch.randn(3, 1, 8, 8)
    logits, raw = model(images, torch.tensor([4, 0, 2])), plain(images)
    for row, (first, last) in enumerate([(8, 10), (0, 2), (4, 6)]):
        assert torch.equal(logits[row, first:last], raw[row, first:last])
        assert (torch.cat((logits[row, :first], logits[row, last:])) == -1e11).all()
    assert model.class_mask.sum().item() == 10


def test_masked_head_gives_other_rows_exactly_zero_gradient(make_stream, make_model):
    model = adapt(with_head(make_model(), "masked"), make_stream(5, task_labels=True))
    logits = model(torch.randn(4, 1, 8, 8), torch.tensor([1, 1, 1, 1]))
    nn.functional.cross_entropy(logits, torch.tensor([2, 3, 2, 3])).backward()
    gradient = model.model.linear.weight.grad
    assert torch.equal(gradient[:2], torch.zeros(2, 16))
    assert torch.equal(gradient[4:], torch.zeros(6, 16))
    assert gradient[2:4].abs().max() > 0


def test_masked_head_without_task_labels_leaves_all_classes_announced(make_stream, make_model):
    model = adapt(with_head(make_model(12), "masked"), make_stream(5, task_labels=False))
    logits = model(torch.randn(2, 1, 8, 8), torch.tensor([0, 0]))
    assert (logits[:, :10] > -1e10).all()
    assert (logits[:, 10:] == -1e11).all()


@pytest.mark.parametrize("head", ["masked", "multi"])
def test_without_labels_all_trained_tasks_are_returned(make_stream, make_model, head):
    model = adapt(with_head(make_model(), head), make_stream(5, task_labels=True))
    images = torch.randn(2, 1, 8, 8)
    everything = model(images, None)
    assert set(everything) == {0, 1, 2, 3, 4}
    units = everything[3].shape[1]  # a batch of mixed tasks is padded to the largest head
    assert torch.equal(everything[3], model(images, torch.tensor([3, 3]))[:, :units])


def test_masked_head_works_in_half_precision(make_stream, make_model):
    model = adapt(with_head(make_model(), "masked"), make_stream(5, task_labels=True)).half()
    logits = model(torch.randn(2, 1, 8, 8).half(), torch.tensor([0, 1]))
    assert torch.isfinite(logits).all()


def test_too_few_outputs_are_an_error(make_stream, make_model):
    with pytest.raises(ValueError, match="experience 3 has class 7, but the model has only 6 outputs"):
        adapt(TaskMaskedModel(make_model(6), 6), make_stream(5, task_labels=True))


def test_cosine_head_grows_by_rows_in_the_order_of_appearance(make_stream, make_model):
    stream = make_stream(2, fixed_class_order=[7, 2, 0, 4])
    model = with_head(make_model(), "cosine")
    head, images = model.linear, torch.randn(3, 1, 8, 8)
    evaluate(model, stream.test_stream[0])
    assert (model(images).shape, len([*head.blocks])) == ((3, 8), 0)  # evaluation adds columns, but no rows
    assert (model(images) == -1000).all()
    adapt(model, stream)
    assert head.classes == [2, 7, 0, 4]
    expected = nn.functional.cosine_similarity(model.features(images)[:, None], head.rows(), dim=2)
    torch.testing.assert_close(model(images)[:, [2, 7, 0, 4]], expected)
    assert (model(images)[:, [1, 3, 5, 6]] == -1000).all()
    assert torch.equal(head.row_of, torch.tensor([2, 4, 0, 4, 3, 4, 4, 1]))
    before = [*head.blocks]
    adapt(model, stream)
    assert all(left is right for left, right in zip(before, head.blocks, strict=True))


@pytest.mark.parametrize("freeze_old", [False, True])
def test_cosine_head_may_freeze_old_rows(make_stream, freeze_old):
    head = IncrementalCosineClassifier(4, freeze_old=freeze_old)
    adapt(head, make_stream(5))
    assert [block.requires_grad for block in head.blocks] == [not freeze_old] * 4 + [True]


def test_bad_input(make_model):
    message = "head must be 'single', 'masked', 'incremental', 'cosine' or 'multi', got 'double'"
    with pytest.raises(ValueError, match=message):
        with_head(make_model(), "double")
    with pytest.raises(TypeError, match="Linear has no features, num_features, linear"):
        with_head(nn.Linear(2, 2), "single")
