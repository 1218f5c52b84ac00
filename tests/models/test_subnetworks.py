"""Weight-masked subnetworks: the recorded cycle, what is never forgotten, views that leave no trace, and state."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from clpack.models import MLP, GenImageResNet18, MaskedSubnetworks, ReducedResNet18

NETWORKS = {
    "mlp": lambda: MLP(5, input_size=48, hidden_sizes=(20, 10)),
    "resnet": lambda: ReducedResNet18(5, input_size=25, width=2),
    "convnet": lambda: ConvNet(),
}
SHAPES = {"mlp": (3, 4, 4), "resnet": (3, 25, 25), "convnet": (3, 8, 8)}


class ConvNet(nn.Sequential):
    """Convolutions with biases, and several kinds of normalization."""

    def __init__(self):
        super().__init__(
            *(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.Flatten()),
        )
        self.linear = nn.Linear(16, 5)


@pytest.fixture(params=NETWORKS)
def network(request):
    """A network, images of two tasks, and labels."""
    return NETWORKS[request.param](), torch.rand(2, 6, *SHAPES[request.param]), torch.arange(6) % 5


def train(subnetworks, images, targets, steps=3):
    """Trains as a strategy would, with a new optimizer."""
    optimizer = torch.optim.SGD(subnetworks.parameters(), lr=0.05, momentum=0.9)
    subnetworks.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(subnetworks(images), targets).backward()
        subnetworks.mask_gradients()
        optimizer.step()


def learn(subnetworks, images, targets):
    """A whole task, with a head of its own."""
    subnetworks.begin_task()
    for parameter in subnetworks.model.linear.parameters():
        parameter.data = torch.randn_like(parameter)
    train(subnetworks, images, targets)
    subnetworks.prune()
    train(subnetworks, images, targets)
    return copy.deepcopy(subnetworks.model.linear.state_dict())


def logits(subnetworks, task, head, images):
    subnetworks.model.linear.load_state_dict(head)
    with subnetworks.view(task) as model, torch.no_grad():
        return model.eval()(images)


def test_recording(golden):
    recording = golden("epochloss/packnet_cycle")
    model = nn.Sequential()
    for name, shape in (("conv1", (3, 6)), ("conv2", (6, 10))):
        model.add_module(name, nn.Conv2d(*shape, 3, bias=False))
        model.get_submodule(name).weight.data = recording[f"initial_{name}_weight"].clone()
    weights = dict(model.named_parameters())
    subnetworks = MaskedSubnetworks(model, heads=())

    def check(moment):
        for name, value in weights.items():
            layer = name.removesuffix(".weight")
            assert torch.equal(value, recording[f"{moment}_{layer}_weight"])
            assert torch.equal(subnetworks.mask(subnetworks.task)[name], recording[f"{moment}_{layer}_mask"].bool())

    def train_as_recorded(moment):
        for value in weights.values():
            value.grad = torch.ones_like(value)
        subnetworks.mask_gradients()
        for name, value in weights.items():
            layer = name.removesuffix(".weight")
            assert torch.equal(value.grad, recording[f"{moment}_{layer}_trainable"].float())
            value.data.copy_(recording[f"{moment}_{layer}_weight"])

    for task in range(3):
        subnetworks.begin_task()
        check(f"t{task}_start")
        train_as_recorded(f"t{task}_train")
        subnetworks.prune()
        check(f"t{task}_pruned")
        train_as_recorded(f"t{task}_finetune")
    for task in range(3):
        with subnetworks.view(task):
            for name, value in weights.items():
                assert torch.equal(value, recording[f"final_view_task{task}_{name.removesuffix('.weight')}_weight"])


def test_pruning_by_hand():
    """round(0.5 * 5) = 2 of five weights go, and a third that ties with the second."""
    model = nn.Sequential(nn.Linear(5, 1, bias=False))
    model[0].weight.data = torch.tensor([[0.3, -0.1, 0.2, -0.2, 0.9]])
    subnetworks = MaskedSubnetworks(model, prune_fraction=0.5, heads=())
    subnetworks.begin_task()
    model[0].weight.data *= 2
    subnetworks.prune()
    torch.testing.assert_close(model[0].weight.detach(), torch.tensor([[0.6, 0.0, 0.0, 0.0, 1.8]]))
    subnetworks.begin_task()
    torch.testing.assert_close(model[0].weight.detach(), torch.tensor([[0.6, -0.1, 0.2, -0.2, 1.8]]))
    model[0].weight.grad = torch.ones(1, 5)
    subnetworks.mask_gradients()
    assert model[0].weight.grad.tolist() == [[0, 1, 1, 1, 0]]


def test_pretrained_weights_are_those_of_the_first_task_only():
    model = MLP(2, input_size=4, hidden_sizes=(8,))
    initial = model.features[1].weight.detach().clone()
    subnetworks = MaskedSubnetworks(model)
    model.features[1].weight.data += 1.0
    subnetworks.begin_task()
    torch.testing.assert_close(model.features[1].weight.detach(), initial + 1.0)
    subnetworks.prune()
    own = subnetworks.mask(0)["features.1.weight"]
    subnetworks.begin_task()
    torch.testing.assert_close(model.features[1].weight.detach(), torch.where(own, initial + 1.0, initial))


def test_shares_of_the_tasks(network):
    model, images, targets = network
    subnetworks = MaskedSubnetworks(model)
    previous = {}
    for task in range(3):
        learn(subnetworks, images[0], targets)
        for name, mask in subnetworks.mask(task).items():
            size = mask.numel()
            assert abs(mask.sum().item() - (1 - 0.65 ** (task + 1)) * size) <= 3
            assert not (previous.get(name, torch.tensor(False)) & ~mask).any()
            previous[name] = mask
    heads = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    assert len(previous) == len(heads) - 1
    assert "linear.weight" not in previous


def test_per_task_normalization_forgets_nothing(network):
    model, images, targets = network
    subnetworks = MaskedSubnetworks(model, bn="per_task")
    head = learn(subnetworks, images[0], targets)
    expected = [logits(subnetworks, 0, head, images[0])]
    heads = [head]
    for task in (1, 2):
        heads.append(learn(subnetworks, images[1] * task, targets))
        expected.append(logits(subnetworks, task, heads[task], images[0]))
        for earlier in range(task + 1):
            assert torch.equal(logits(subnetworks, earlier, heads[earlier], images[0]), expected[earlier])
    assert not torch.equal(expected[1], expected[0])


def test_the_genimage_network():
    model, (first, second), targets = GenImageResNet18(5, input_size=17), torch.rand(2, 2, 3, 17, 17), torch.arange(2)
    subnetworks = MaskedSubnetworks(model, bn="per_task")
    expected = []
    for images in (first, second):
        subnetworks.begin_task()
        train(subnetworks, images, targets, steps=1)
        subnetworks.prune()
        expected.append(logits(subnetworks, subnetworks.task, model.linear.state_dict(), first))
        model.linear.requires_grad_(False)  # one head is enough here
    assert torch.equal(logits(subnetworks, 0, model.linear.state_dict(), first), expected[0])
    assert not torch.equal(expected[0], expected[1])
    shares = torch.stack([mask.double().mean() for mask in subnetworks.mask(1).values()])
    assert len(shares) == 20
    torch.testing.assert_close(shares, torch.full_like(shares, 1 - 0.65**2), rtol=0, atol=1e-3)


def test_shared_normalization_is_trained_by_all_tasks(network):
    model, images, targets = network
    normalized = any("Norm" in type(module).__name__ for module in model.modules())
    subnetworks = MaskedSubnetworks(model)
    head = learn(subnetworks, images[0], targets)
    before = logits(subnetworks, 0, head, images[0])
    weights = {name: (model.get_parameter(name).detach().clone(), mask) for name, mask in subnetworks.mask(0).items()}
    biases = {
        name: value.detach().clone()
        for name, value in model.named_parameters()
        if name.endswith("bias") and name.replace("bias", "weight") in weights
    }
    learn(subnetworks, images[1], targets)
    for name, (value, mask) in weights.items():
        assert torch.equal(model.get_parameter(name)[mask], value[mask])
    for name, value in biases.items():
        assert torch.equal(model.get_parameter(name), value)
    assert torch.equal(logits(subnetworks, 0, head, images[0]), before) != normalized


def test_a_view_leaves_no_trace(network):
    model, images, targets = network
    subnetworks = MaskedSubnetworks(model)
    for k in range(2):
        learn(subnetworks, images[k], targets)
    state = copy.deepcopy(subnetworks.state_dict())
    addresses = [parameter.data_ptr() for parameter in model.parameters()]

    def fail_while_training():
        with subnetworks.view(0):
            model.linear.requires_grad_(False)
            train(subnetworks, images[0], targets, steps=1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_training()
    after = subnetworks.state_dict()
    assert all(torch.equal(after[name], value) for name, value in state.items())
    assert [parameter.data_ptr() for parameter in model.parameters()] == addresses
    with subnetworks.view(1), torch.no_grad():  # the latest task sees the network as it is
        seen = model.eval()(images[0])
    assert torch.equal(model(images[0]), seen)


@pytest.mark.parametrize("bn", ["shared", "per_task"])
def test_state_continues_the_cycle(network, bn):
    model, images, targets = network
    first = MaskedSubnetworks(model, bn=bn)
    head = learn(first, images[0], targets)
    first.begin_task()
    train(first, images[1], targets)
    second = MaskedSubnetworks(copy.deepcopy(model), bn=bn)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for subnetworks in (first, second):
        subnetworks.prune()
        torch.manual_seed(0)
        learn(subnetworks, images[1], targets)
    expected, found = first.state_dict(), second.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert torch.equal(logits(first, 0, head, images[0]), logits(second, 0, head, images[0]))


def test_heads_can_be_named():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 4)
            self.heads = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])

    model = TwoHeads()
    with pytest.raises(ValueError, match="TwoHeads has no head called linear; name its output layers as heads"):
        MaskedSubnetworks(model)
    subnetworks = MaskedSubnetworks(model, heads=[model.heads])
    subnetworks.begin_task()
    assert set(subnetworks.mask(0)) == {"body.weight"}


def test_bad_calls():
    def after(*calls, prune_fraction=0.65):
        subnetworks = MaskedSubnetworks(MLP(2, input_size=4, hidden_sizes=(1,)), prune_fraction=prune_fraction)
        for call in calls:
            getattr(subnetworks, call)()
        return subnetworks

    def within_view(call):
        subnetworks = after("begin_task", "prune")
        with subnetworks.view(0):
            call(subnetworks)

    for call, message in (
        (lambda: after("mask_gradients"), "there is no task yet: call begin_task"),
        (lambda: after("prune"), "there is no task yet: call begin_task"),
        (lambda: after("begin_task", "begin_task"), r"task 0 holds all weights: call prune\(\) first"),
        (lambda: after("begin_task", "prune", "prune"), "task 0 was pruned already"),
        (lambda: within_view(lambda s: s.begin_task()), r"begin_task\(\) within view\(\): leave it first"),
        (lambda: within_view(lambda s: s.prune()), r"prune\(\) within view\(\): leave it first"),
        (lambda: within_view(lambda s: s.view(0).__enter__()), r"view\(\) within another view: leave that first"),
        (
            lambda: after("begin_task", "prune", "begin_task", prune_fraction=0.1),
            "no free weights are left for another task",
        ),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
    for call, message in (
        (lambda: MaskedSubnetworks(MLP(), prune_fraction=1.0), r"prune_fraction must be in \(0, 1\), got 1.0"),
        (lambda: MaskedSubnetworks(MLP(), bn="private"), "bn must be 'shared' or 'per_task', got 'private'"),
        (lambda: MaskedSubnetworks(MLP(), heads=[nn.Linear(2, 2)]), "heads must be modules of the model"),
        (lambda: MaskedSubnetworks(nn.ReLU(), heads=()), "ReLU has no convolutional or linear layer besides its heads"),
        (lambda: after("begin_task").mask(1), "task must be one that was begun, got 1; tasks 0 to 0 were"),
        (lambda: after().mask(0), "task must be one that was begun, got 0; no task was"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
