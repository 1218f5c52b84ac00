"""The losses of CCSI: the recorded steps and the recorded epoch, cases by hand, and errors."""

from __future__ import annotations

import math

import pytest
import torch

from clpack.models import SplitCosineLinear
from clpack.synthesis import (
    BatchMoments,
    balanced_class_weights,
    cosine_cross_entropy,
    intra_domain_loss,
    less_forget_loss,
    less_forget_weight,
    margin_ranking_loss,
    sampling_weights,
)

EXACT = {"rtol": 1e-9, "atol": 1e-12}


def all_losses(head, constants, features, reference, targets, target_features, centroids):
    scores = head.scores(features)
    unlabeled = head.scores(target_features)
    intra_domain, centroids = intra_domain_loss(
        scores,
        targets,
        unlabeled,
        centroids,
        rho=constants["ro"].item(),
        temperature=constants["temperature"].item(),
    )
    losses = {
        "lf": less_forget_loss(features, reference, weight=constants["lam"].item()),
        "ce": cosine_cross_entropy(scores, targets, sigma=head.sigma, class_weights=constants["class_weights"]),
        "margin": margin_ranking_loss(
            scores,
            targets,
            constants["n_old"].item(),
            margin=constants["margin"].item(),
            num_negatives=constants["K"].item(),
        ),
        "idc": intra_domain,
    }
    return losses, centroids, unlabeled


def recorded_head(recording, prefix=""):
    head = SplitCosineLinear(10, 4, 2).double()
    names = {"fc1.weight": "w1", "fc2.weight": "w2", "sigma": "sigma"}
    head.load_state_dict({ours: recording[prefix + theirs] for ours, theirs in names.items()})
    return head


def test_recorded_steps(golden):
    recording = golden("ccsi/losses")
    head, centroids = recorded_head(recording), None
    for step in range(3):
        data = recording.below(f"step{step}_")
        features, target_features = (data[name].clone().requires_grad_() for name in ("feat", "target_feat"))
        losses, centroids, unlabeled = all_losses(
            head, recording, features, data["ref_feat"], data["y"], target_features, centroids
        )
        assert torch.equal(unlabeled.argmax(1), data["pseudo_labels"])
        torch.testing.assert_close(centroids[0], data["s_centroids"], **EXACT)
        torch.testing.assert_close(centroids[1], data["t_centroids"], **EXACT)
        inputs = {
            "feat": features,
            "target_feat": target_features,
            "w1": head.fc1.weight,
            "w2": head.fc2.weight,
            "sigma": head.sigma,
        }
        for name, loss in losses.items():
            torch.testing.assert_close(loss, recording[f"loss_{name}"][step], **EXACT)
            gradients = torch.autograd.grad(loss, list(inputs.values()), retain_graph=True, materialize_grads=True)
            for key, gradient in zip(inputs, gradients, strict=True):
                torch.testing.assert_close(gradient, data[f"{name}_g_{key}"], **EXACT)
        total = sum(losses.values())
        torch.testing.assert_close(total, recording["loss_total"][step], **EXACT)
        for name in ("feat", "w1", "w2", "sigma"):
            gradient = torch.autograd.grad(total, inputs[name], retain_graph=True)[0]
            torch.testing.assert_close(gradient, data[f"g_{name}"], **EXACT)


def test_recorded_batch_without_old_classes(golden):
    recording = golden("ccsi/losses")
    data = recording.below("noold_")
    losses, _, _ = all_losses(
        recorded_head(recording),
        recording,
        data["feat"],
        data["ref_feat"],
        data["y"],
        recording["step0_target_feat"],
        None,
    )
    torch.testing.assert_close(torch.stack(list(losses.values())), data["losses"], **EXACT)
    assert losses["margin"] == 0


def test_recorded_epoch(recorded):
    recording = recorded("train_epoch")
    reference = recording.network("ref.", momentum=1.0)
    model = recording.network("ref.", momentum=1.0)
    model.linear = model.linear.grown(2)
    model.linear.load_state_dict({n.removeprefix("linear."): a for n, a in recording.below("init.").items()})
    kept = BatchMoments(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=recording["lr"].item())
    model.train()
    centroids, history, correct = None, [], 0
    batches = zip(recording["train_x"], recording["train_y"], recording["target_x"], strict=True)
    for images, targets, target_images in batches:
        features = model.features(images)
        with torch.no_grad():
            reference_features = reference.features(images)
        losses, centroids, _ = all_losses(
            model.linear,
            recording,
            features,
            reference_features,
            targets,
            model.features(target_images),
            centroids,
        )
        total = sum(losses.values())
        history.append(torch.stack([*losses.values(), total]).detach())
        correct += (model.linear(features).argmax(1) == targets).sum().item()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    recording.close(torch.stack(history).mean(0), "mean_losses", rtol=1e-4)
    assert 100 * correct / recording["train_y"].numel() == recording["train_acc"]
    state = model.state_dict()
    for name, expected in recording.below("final.").items():
        torch.testing.assert_close(state[name], expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    expected = recording.statistics("final_group")
    for ours, theirs in ((kept.statistics.mean, expected.mean), (kept.statistics.var, expected.var)):
        assert ours.keys() == theirs.keys()
        for name, table in theirs.items():
            torch.testing.assert_close(ours[name], table, rtol=1e-4, atol=1e-4 * table.abs().max().item())


def test_recorded_formulas(golden):
    recording = golden("ccsi/misc_formulas")
    weight, draws = sampling_weights(
        recording["sampler_n_real"].item(),
        recording["sampler_n_syn"].item(),
        synthetic_fraction=recording["sampler_ratio"].item(),
    )
    assert weight == pytest.approx(recording["sampler_scale"].item(), rel=1e-12)
    assert draws == recording["sampler_num_samples"]
    labels = torch.cat((recording["cw_y_syn"], recording["cw_y_real"]))
    torch.testing.assert_close(balanced_class_weights(labels.bincount()).double(), recording["cw"], rtol=1e-6, atol=0.0)
    for num_old, per_task, expected in zip(
        recording["adapt_lambda_old"], recording["adapt_lambda_nbcl"], recording["adapt_lambda"], strict=True
    ):
        ours = less_forget_weight(num_old.item(), per_task.item(), base=recording["adapt_lambda_base"].item())
        assert ours == pytest.approx(expected.item(), rel=1e-12)


def test_margin_by_hand():
    # two old and three new classes; the hinge of sample 0 with the two highest new scores: 0.3 - 0.5 + (0.4, 0.1);
    # sample 1 is old but far above; sample 2 is new and does not count
    scores = torch.tensor([[0.5, 0.0, 0.4, 0.1, -1.0], [0.0, 0.9, 0.1, 0.2, 0.0], [0.0, 0.0, 0.1, 1.0, 0.9]])
    targets = torch.tensor([0, 1, 2])
    assert margin_ranking_loss(scores, targets, 2).item() == pytest.approx(0.2 / 2)
    assert margin_ranking_loss(scores, targets, 2, num_negatives=2).item() == pytest.approx(0.2 / 4)
    assert margin_ranking_loss(scores, targets, 2, margin=0.8).item() == pytest.approx((0.7 + 0.1) / 2)


def test_intra_domain_by_hand():
    # both sources have one sample for each of two classes, so that S = T = identity: R is e on the diagonal, else 1
    scores = torch.eye(2)
    loss, (source, target) = intra_domain_loss(scores, torch.tensor([0, 1]), scores, rho=1.0)
    assert loss.item() == pytest.approx(math.log((2 * math.e + 2) / (2 * math.e)))
    assert torch.equal(source, torch.eye(2))
    assert torch.equal(target, torch.eye(2))
    _, (source, _) = intra_domain_loss(scores, torch.tensor([0, 0]), scores, (source, target), rho=0.25)
    assert source.tolist() == [[0.875, 0.125], [0.0, 0.75]]  # the second class has no samples: a row of zeros enters


def test_half_of_the_draws_are_synthetic():
    weight, draws = sampling_weights(300, 100, synthetic_fraction=0.5)
    assert (weight, draws) == (3.0, 600)
    weights = torch.tensor([1.0] * 300 + [weight] * 100)
    drawn = torch.multinomial(weights, 60_000, replacement=True, generator=torch.Generator().manual_seed(0))
    assert (drawn >= 300).double().mean().item() == pytest.approx(0.5, abs=0.01)  # five standard deviations


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: margin_ranking_loss(torch.zeros(1, 3), torch.zeros(1).long(), 3), "got num_old=3"),
        (lambda: margin_ranking_loss(torch.zeros(1, 3), torch.zeros(1).long(), 0), "got num_old=0"),
        (
            lambda: margin_ranking_loss(torch.zeros(1, 3), torch.zeros(1).long(), 2, num_negatives=2),
            "num_negatives=2 new ones, got num_old=2",
        ),
        (
            lambda: intra_domain_loss(torch.zeros(1, 3), torch.zeros(1).long(), torch.zeros(1, 4)),
            "same classes, got 3 and 4",
        ),
        (lambda: balanced_class_weights(torch.tensor([3, 0, 2, 0])), r"got none of \[1, 3\]"),
        (lambda: sampling_weights(10, 10, synthetic_fraction=1.0), r"must be in \(0, 1\), got 1.0"),
        (lambda: sampling_weights(10, 0), "got 10 and 0"),
        (lambda: less_forget_weight(2, 0), "got 2 and 0"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
