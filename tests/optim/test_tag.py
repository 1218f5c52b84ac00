"""TAG against the recordings of the authors' program, hand-worked steps, and torch's optimizers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from clpack.optim import TAG

BASES = {"rms": "rmsprop", "adagrad": "adagrad", "adam": "adam"}
OPEN_LOOP = [
    "adagrad_b5",
    "adam_b5",
    "adam_b5_two_epochs",
    "multihead_adagrad_b5",
    "multihead_adam_b5",
    "multihead_rms_b5",
    "rms_b1",
    "rms_b5",
    "rms_b5_eight_tasks",
    "rms_b5_float32",
    "rms_b7",
]


def tolerance(recording):
    return {"rtol": 1e-9, "atol": 1e-12} if recording.meta["dtype"] == "float64" else {"rtol": 2e-5, "atol": 2e-6}


def make(params, meta, **options):
    betas = None if meta["variant"] == "adagrad" else (meta["beta1"], meta["beta2"])
    base = BASES[meta["variant"]]
    return TAG(params, meta["lr"], base=base, b=meta["b"], betas=betas, eps=meta["eps"], **options)


def replay(recording, optimizer, set_gradients, after_step, after_task=lambda task: None):
    """Feeds the recorded gradients step by step, with the recorded task and epoch boundaries."""
    task = epoch = None
    places = zip(recording["task"].tolist(), recording["epoch"].tolist(), strict=True)
    for n, (new_task, new_epoch) in enumerate(places):
        if new_task != task:
            if task is not None:
                after_task(task)
                optimizer.end_task()
            optimizer.begin_task(new_task)
            task, epoch = new_task, None
        if new_epoch != epoch:
            optimizer.begin_epoch()
            epoch = new_epoch
        set_gradients(n)
        optimizer.step()
        after_step(n, task)
    after_task(task)
    optimizer.end_task()


@pytest.mark.parametrize("name", OPEN_LOOP)
def test_open_loop_recordings(golden, name):
    recording = golden(f"tag/{name}")
    names = recording.meta["tensors"]
    params = [nn.Parameter(recording[f"init/{tensor}"].clone()) for tensor in names]
    optimizer = make(params, recording.meta, bias_correction="epoch")
    close = tolerance(recording)
    alpha_rtol = 1e-9 if recording.meta["dtype"] == "float64" else 1e-4

    def set_gradients(n):
        for param, tensor in zip(params, names, strict=True):
            param.grad = recording[f"grad/{tensor}"][n].clone()

    def after_step(n, task):
        for param, tensor in zip(params, names, strict=True):
            torch.testing.assert_close(param.detach(), recording[f"param/{tensor}"][n + 1], **close)
        for alpha, expected in zip(optimizer.alphas(), recording["alpha"][n], strict=True):
            assert alpha.shape == (task + 1,)
            torch.testing.assert_close(alpha.double(), expected[: task + 1].double(), rtol=alpha_rtol, atol=0.0)

    def after_task(task):
        report = optimizer.alpha_report()
        expected = recording["alpha_report"][task][: task + 1].double()
        torch.testing.assert_close(report, expected, rtol=0.0, atol=6e-4)

    replay(recording, optimizer, set_gradients, after_step, after_task)
    for param, tensor in zip(params, names, strict=True):
        state = optimizer.state[param]
        torch.testing.assert_close(state["second"], recording[f"V/{tensor}"].flatten(1), **close)
        torch.testing.assert_close(state["first"], recording[f"Mhat/{tensor}"], **close)


@pytest.mark.parametrize("name", ["multihead_rms_b5", "multihead_adagrad_b5", "multihead_adam_b5"])
def test_separate_heads_give_the_rows_of_the_single_head(golden, name):
    recording = golden(f"tag/{name}")
    meta = recording.meta
    size, heads = meta["classes_per_task"], meta["head"]
    trunk = [tensor for tensor in meta["tensors"] if tensor not in heads]
    params = {tensor: nn.Parameter(recording[f"init/{tensor}"].clone()) for tensor in trunk}
    for tensor in heads:
        for task in range(meta["n_tasks"]):
            rows = slice(task * size, (task + 1) * size)
            params[tensor, task] = nn.Parameter(recording[f"init/{tensor}"][rows].clone())
    optimizer = make(list(params.values()), meta, bias_correction="epoch")

    def gradient(key, n):
        if isinstance(key, str):
            return recording[f"grad/{key}"][n].clone()
        tensor, task = key
        if task != recording["task"][n]:
            return None
        return recording[f"grad/{tensor}"][n][task * size : (task + 1) * size].clone()

    def set_gradients(n):
        for key, param in params.items():
            param.grad = gradient(key, n)

    def after_step(n, _):
        for key, param in params.items():
            tensor, rows = (key, slice(None)) if isinstance(key, str) else (key[0], slice(key[1] * size, None))
            expected = recording[f"param/{tensor}"][n + 1][rows][: len(param)]
            torch.testing.assert_close(param.detach(), expected, **tolerance(recording))
        assert all(torch.isfinite(alpha).all() for alpha in optimizer.alphas())

    replay(recording, optimizer, set_gradients, after_step)


@pytest.mark.parametrize("name", ["e2e_mlp_rms_b5", "e2e_mlp_adagrad_b5", "e2e_mlp_adam_b5_two_epochs"])
def test_closed_loop_recordings(golden, name):
    recording = golden(f"tag/{name}")
    meta = recording.meta
    images, labels = recording["X"], recording["Y"]
    n_tasks, steps, _, d_in = images.shape
    initial = recording.below("init/")
    hidden, outputs = initial["fc1.weight"].shape[0], initial["fc2.weight"].shape[0]
    model = nn.Sequential()
    model.add_module("fc1", nn.Linear(d_in, hidden, bias=False))
    model.add_module("bn", nn.BatchNorm1d(hidden))
    model.add_module("relu", nn.ReLU())
    model.add_module("fc2", nn.Linear(hidden, outputs))
    model.double().load_state_dict(initial)
    optimizer = make(model.parameters(), meta, bias_correction="epoch")
    classes = outputs // n_tasks
    for task in range(n_tasks):
        optimizer.begin_task(task)
        blocked = torch.ones(outputs, dtype=torch.bool)
        blocked[task * classes : (task + 1) * classes] = False
        model.train()
        for _ in range(meta.get("epochs_per_task", 1)):
            optimizer.begin_epoch()
            for step in range(steps):
                optimizer.zero_grad()
                logits = model(images[task, step]).masked_fill(blocked, -1e11)
                nn.functional.cross_entropy(logits, labels[task, step].long()).backward()
                optimizer.step()
        report = optimizer.alpha_report()
        torch.testing.assert_close(report, recording["alpha_report"][task][: task + 1].double(), rtol=0, atol=6e-4)
        optimizer.end_task()
        for key, expected in recording.below(f"after_task{task}/").items():
            torch.testing.assert_close(model.state_dict()[key], expected, rtol=1e-9, atol=1e-9, check_dtype=False)
        model.eval()
        with torch.no_grad():
            logits = model(images.reshape(-1, d_in))
        torch.testing.assert_close(logits, recording["eval_logits_unmasked"][task], rtol=1e-9, atol=1e-9)


def one_step(optimizer, param, gradient):
    param.grad = torch.tensor(gradient, dtype=param.dtype)
    optimizer.step()


def test_second_task_worked_by_hand():
    # Task 0: gradient (3, 4), so M = (0.3, 0.4), direction (0.6, 0.8), V0 = 0.01 * (9, 16).
    # Task 1: gradient (1, 0), so M = (0.1, 0), cosine 0.6, V1 = 0.01 * (1, 0), alphas exp(-0.6 b) and exp(-b).
    param = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = TAG([param], 0.5, b=2.0)
    one_step(optimizer, param, [3.0, 4.0])
    assert param.tolist() == pytest.approx([-5.0, -5.0])  # lr * g / sqrt(0.01 * g * g)
    optimizer.begin_task(1)
    one_step(optimizer, param, [1.0, 0.0])
    past, own = math.exp(-1.2), math.exp(-2.0)
    assert optimizer.alphas()[0].tolist() == pytest.approx([past, own])
    assert param[0].item() == pytest.approx(-5.0 - 0.5 / math.sqrt(past * 0.09 + own * 0.01))
    assert param[1].item() == pytest.approx(-5.0)


@pytest.mark.parametrize(
    ("base", "reference"),
    [
        ("rmsprop", lambda params: torch.optim.RMSprop(params, lr=0.01, alpha=0.99, eps=1e-8)),
        ("adagrad", lambda params: torch.optim.Adagrad(params, lr=0.01, eps=1e-8)),
        ("adam", lambda params: torch.optim.Adam(params, lr=0.01, betas=(0.9, 0.999), eps=1e-8)),
    ],
)
def test_first_task_is_the_base_optimizer(base, reference):
    ours = [nn.Parameter(torch.randn(4, 3, dtype=torch.float64)), nn.Parameter(torch.randn((), dtype=torch.float64))]
    theirs = copy.deepcopy(ours)
    optimizers = TAG(ours, 0.01, base=base), reference(theirs)
    for _ in range(20):
        for param, twin in zip(ours, theirs, strict=True):
            param.grad = torch.randn_like(param)
            twin.grad = param.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for param, twin in zip(ours, theirs, strict=True):
        torch.testing.assert_close(param, twin, rtol=0.0, atol=1e-15)


def train(optimizer, params, tasks, steps=3, generator=None):
    for task in tasks:
        optimizer.begin_task(task)
        optimizer.begin_epoch()
        for _ in range(steps):
            for param in params:
                param.grad = torch.randn(param.shape, dtype=param.dtype, generator=generator)
            optimizer.step()
        optimizer.end_task()


def test_without_reaction_all_weights_are_one():
    param = nn.Parameter(torch.zeros(5))
    optimizer = TAG([param], 0.1, b=0.0)
    train(optimizer, [param], range(3))
    assert optimizer.alphas()[0].tolist() == [1.0, 1.0, 1.0]


def test_a_single_number_agrees_or_disagrees_fully():
    param = nn.Parameter(torch.zeros(1))
    optimizer = TAG([param], 0.1, b=3.0)
    one_step(optimizer, param, [1.0])
    optimizer.begin_task(1)
    one_step(optimizer, param, [-1.0])
    optimizer.begin_task(2)
    one_step(optimizer, param, [2.0])
    expected = [math.exp(-3.0), math.exp(3.0), math.exp(-3.0)]
    assert optimizer.alphas()[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_vanishing_moments_give_weight_one_and_no_nan():
    live, dead, unused = (nn.Parameter(torch.zeros(3)) for _ in range(3))
    optimizer = TAG([live, dead, unused], 0.1)
    for task in range(3):
        optimizer.begin_task(task)
        for _ in range(2):
            live.grad, dead.grad = torch.ones(3), torch.zeros(3)
            optimizer.step()
    live_alpha, dead_alpha, unused_alpha = optimizer.alphas()
    own = math.exp(-5.0)
    assert live_alpha.tolist() == pytest.approx([own, own, own], rel=1e-5)
    assert dead_alpha.tolist() == pytest.approx([1.0, 1.0, own], rel=1e-5)
    assert unused_alpha.tolist() == pytest.approx([1.0, 1.0, own], rel=1e-5)
    assert dead.tolist() == unused.tolist() == [0.0, 0.0, 0.0]
    assert optimizer.alpha_report().tolist() == pytest.approx([(own + 1) / 2] * 2 + [own], rel=1e-5)


def test_tensor_that_appears_late_knows_no_earlier_task():
    old = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = TAG([old], 0.1)
    train(optimizer, [old], [0, 1])
    new = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer.add_param_group({"params": [new], "lr": 0.2})
    optimizer.begin_task(2)
    old.grad, new.grad = torch.ones(3).double(), torch.tensor([1.0, 2.0]).double()
    optimizer.step()
    assert optimizer.alphas()[1].tolist() == pytest.approx([1.0, 1.0, math.exp(-5.0)])
    # only its own second moment counts: lr * g / sqrt(exp(-b) * 0.01 * g * g)
    assert new.tolist() == pytest.approx([-0.2 * 10 * math.exp(2.5)] * 2, rel=1e-5)  # eps is felt


def test_grown_tensor_equals_one_that_had_the_rows_from_the_start():
    small, large = (nn.Parameter(torch.zeros(rows, 3, dtype=torch.float64)) for rows in (2, 4))
    growing, whole = TAG([small], 0.1), TAG([large], 0.1)
    for task in range(2):
        for optimizer in (growing, whole):
            optimizer.begin_task(task)
        for _ in range(3):
            small.grad = torch.randn(2, 3, dtype=torch.float64)
            large.grad = torch.cat((small.grad, torch.zeros(2, 3)))
            growing.step()
            whole.step()
    grown = nn.Parameter(torch.cat((small.detach(), torch.zeros(2, 3))))
    growing.end_task()
    growing.param_groups[0]["params"] = [grown]
    growing.transfer_state(growing.state.pop(small), grown)
    for optimizer in (growing, whole):
        optimizer.begin_task(2)
    for _ in range(3):
        grown.grad = torch.randn(4, 3, dtype=torch.float64)
        large.grad = grown.grad.clone()
        growing.step()
        whole.step()
    torch.testing.assert_close(grown, large, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(growing.alphas()[0], whole.alphas()[0], rtol=1e-12, atol=0.0)


def test_tensor_cannot_shrink():
    param = nn.Parameter(torch.zeros(4, 3))
    optimizer = TAG([param], 0.1)
    train(optimizer, [param], [0])
    with pytest.raises(ValueError, match=r"\(4, 3\) can only be replaced by a larger one, got \(2, 3\)"):
        optimizer.transfer_state(optimizer.state[param], nn.Parameter(torch.zeros(2, 3)))


def test_returning_task_resumes_its_moments_and_sees_all_others():
    param = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = TAG([param], 1.0, b=1.0)
    one_step(optimizer, param, [1.0, 0.0])
    optimizer.begin_task(1)
    one_step(optimizer, param, [0.0, 1.0])
    optimizer.begin_task(0)
    before = param.detach().clone()
    one_step(optimizer, param, [1.0, 1.0])
    # task 0: M = 0.9 * (0.1, 0) + 0.1 * (1, 1) = (0.19, 0.1), V = 0.99 * (0.01, 0) + 0.01 = (0.0199, 0.01)
    past = math.exp(-0.1 / math.hypot(0.19, 0.1))
    own = math.exp(-1.0)
    assert optimizer.alphas()[0].tolist() == pytest.approx([own, past])
    expected = [-1 / math.sqrt(own * 0.0199), -1 / math.sqrt(own * 0.01 + past * 0.01)]
    assert (param - before).tolist() == pytest.approx(expected)


def test_first_task_that_returns_alone_goes_on_as_if_never_left():
    torch.manual_seed(1)
    kept, left = (nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2))
    optimizers = TAG([kept], 0.1, base="adam"), TAG([left], 0.1, base="adam")
    for step in range(4):
        if step == 2:
            optimizers[1].end_task()
            optimizers[1].begin_task(0)
        kept.grad = torch.randn(3, dtype=torch.float64)
        left.grad = kept.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(kept, left, rtol=1e-12, atol=0.0)


def test_adam_counts_steps_of_the_task_or_of_the_epoch():
    def run(bias_correction):
        param = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = TAG([param], 1.0, base="adam", bias_correction=bias_correction)
        for _ in range(2):
            optimizer.begin_epoch()
            one_step(optimizer, param, [1.0])
        return param.item()

    # constant gradient 1: with the true counter each step is 1; restarted, the second uses the corrections of step 1
    assert run("task") == pytest.approx(-2.0)
    assert run("epoch") == pytest.approx(-1.0 - (0.19 / 0.1) / math.sqrt(0.001999 / 0.001))


def test_parameter_without_gradient_is_left_alone():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = TAG([used, unused], 0.1)
    train(optimizer, [used, unused], [0])
    before, moments = unused.detach().clone(), copy.deepcopy(optimizer.state[unused])
    optimizer.begin_task(1)
    used.grad, unused.grad = torch.ones(2), None
    optimizer.step()
    assert torch.equal(unused, before)
    assert torch.equal(optimizer.state[unused]["second"], moments["second"])


def test_state_grows_with_the_tasks_to_two_rows_each():
    params = [nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.zeros(7))]
    optimizer = TAG(params, 0.1)
    for task in range(5):
        train(optimizer, params, [task])
        tensors = [value for entry in optimizer.state.values() for value in entry.values() if torch.is_tensor(value)]
        assert sum(tensor.numel() for tensor in tensors) == 2 * (task + 1) * 19


@pytest.mark.parametrize("base", ["rmsprop", "adagrad", "adam"])
@pytest.mark.parametrize("clone", ["state_dict", "deepcopy"])
def test_continuing_from_a_copy_is_exact(base, clone, tmp_path):
    def build():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        return model, TAG(
            [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.05}], 0.1, base=base
        )

    def half(model, optimizer, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(5, 4, generator=generator)).square().mean().backward()
            optimizer.step()

    model, optimizer = build()
    for task in range(2):
        optimizer.begin_task(task)
        half(model, optimizer, task)
    optimizer.begin_task(2)
    half(model, optimizer, 7)
    if clone == "deepcopy":
        twin, other = copy.deepcopy((model, optimizer))
    else:
        torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "state.pt")
        twin, other = build()
        weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
        twin.load_state_dict(weights)
        other.load_state_dict(state)
    assert torch.equal(optimizer.alpha_report(), other.alpha_report())
    for net, opt in ((model, optimizer), (twin, other)):
        half(net, opt, 11)
        opt.end_task()
        opt.begin_task(0)
        half(net, opt, 12)
    for param, same in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(param, same)
    assert torch.equal(optimizer.alpha_report(), other.alpha_report())


def test_changing_sets_of_gradients_are_reported_like_any_other():
    # The second tensor takes part in every other step: its mean is over these steps only.
    always, sometimes = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = TAG([always, sometimes], 0.1, b=1.0)
    train(optimizer, [always, sometimes], [0])
    sign = [torch.sign(optimizer.state[param]["first"][0, 0]).item() for param in (always, sometimes)]
    optimizer.begin_task(1)
    for step in range(4):
        always.grad = torch.tensor([sign[0]])
        sometimes.grad = torch.tensor([-sign[1]]) if step % 2 else None
        optimizer.step()
    expected = [(math.exp(-1) + math.exp(1)) / 2, math.exp(-1)]
    assert optimizer.alpha_report().tolist() == pytest.approx(expected, rel=1e-5)


def test_closure_is_evaluated_with_gradients():
    param = nn.Parameter(torch.tensor([2.0]))
    optimizer = TAG([param], 0.1)

    def closure():
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert param.item() == pytest.approx(2.0 - 0.1 * 4 / math.sqrt(0.01 * 16), rel=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_layout_does_not_matter(layout):
    param = nn.Parameter(torch.zeros(2, 3, 4, 5).to(memory_format=layout))
    twin = nn.Parameter(torch.zeros(2, 3, 4, 5))
    optimizers = TAG([param], 0.1), TAG([twin], 0.1)
    for task in range(2):
        gradient = torch.randn(2, 3, 4, 5)
        for tensor, optimizer in zip((param, twin), optimizers, strict=True):
            optimizer.begin_task(task)
            tensor.grad = gradient.clone(memory_format=torch.preserve_format)
            optimizer.step()
    assert torch.equal(param, twin)


def test_parameter_that_grows_itself_keeps_its_history():
    grown, whole = nn.Parameter(torch.zeros(2, 3).double()), nn.Parameter(torch.zeros(4, 3).double())
    optimizers = TAG([grown], 0.1), TAG([whole], 0.1)
    for task in range(2):
        for optimizer in optimizers:
            optimizer.begin_task(task)
        for _ in range(3):
            grown.grad = torch.randn(grown.shape, dtype=torch.float64)
            whole.grad = torch.cat((grown.grad, torch.zeros(4 - len(grown), 3)))
            for optimizer in optimizers:
                optimizer.step()
        if task == 0:
            grown.data = torch.cat((grown.data, torch.zeros(2, 3)))
    torch.testing.assert_close(grown, whole, rtol=1e-12, atol=1e-15)
    grown.data = grown.data[:1]
    grown.grad = torch.zeros(1, 3).double()
    with pytest.raises(ValueError, match="can only be replaced by a larger one"):
        optimizers[0].step()


@pytest.mark.parametrize(("scale", "alpha"), [(1e-8, math.exp(-5.0)), (1e-12, math.exp(-5.0)), (1e-24, 1.0)])
def test_tiny_moments_have_their_direction_or_none(scale, alpha):
    param = nn.Parameter(torch.zeros(1000))
    optimizer = TAG([param], 0.1)
    gradient = torch.randn(1000)
    for task, factor in enumerate((1.0, scale)):
        optimizer.begin_task(task)
        param.grad = factor * gradient
        optimizer.step()
    assert optimizer.alphas()[0][0].item() == pytest.approx(alpha, rel=1e-4)


def test_tasks_without_a_step_count():
    optimizer = TAG([nn.Parameter(torch.zeros(1))], 0.1, bias_correction="epoch")
    optimizer.begin_task(0)
    optimizer.begin_task(1)
    optimizer.begin_epoch()
    optimizer.begin_task(2)
    assert optimizer.progress["finished"] == [0, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_step_makes_no_host_synchronization():
    params = [nn.Parameter(torch.zeros(5, 4, device="cuda")), nn.Parameter(torch.zeros(3, device="cuda"))]
    optimizer = TAG(params, 0.1, base="adam")
    for task in range(3):
        optimizer.begin_task(task)
        for param in params:
            param.grad = torch.randn_like(param)
        optimizer.step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": torch.tensor(0.1)}, TypeError, "lr must be a finite number, got tensor"),
        ({"lr": "0.1"}, TypeError, "lr must be a finite number, got '0.1' of type str"),
        ({"lr": math.inf}, TypeError, "lr must be a finite number, got inf"),
        ({"betas": 0.9}, TypeError, "betas must be two numbers, got 0.9"),
        ({"betas": (0.9, "x")}, TypeError, r"betas\[1\] must be a finite number"),
        ({"lr": 0.0}, ValueError, "lr must be positive, got 0.0"),
        ({"lr": -1.0}, ValueError, "lr must be positive"),
        ({"b": -1.0}, ValueError, "b must be non-negative"),
        ({"eps": 0.0}, ValueError, "eps must be positive"),
        ({"betas": (0.9, 1.0)}, ValueError, r"betas must be two numbers in \[0, 1\)"),
        ({"base": "sgd"}, ValueError, "base must be one of 'rmsprop', 'adagrad', 'adam', got 'sgd'"),
        ({"bias_correction": "never"}, ValueError, "bias_correction must be 'task' or 'epoch'"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        TAG([nn.Parameter(torch.zeros(1))], **{"lr": 0.1, **options})


def test_bad_parameters():
    with pytest.raises(TypeError, match=r"in bfloat16, float32 or float64, got torch\.complex64"):
        TAG([nn.Parameter(torch.zeros(1, dtype=torch.complex64))], 0.1)
    with pytest.raises(TypeError, match=r"got torch\.float16; keep them in float32 and use autocast"):
        TAG([nn.Parameter(torch.zeros(1).half())], 0.1)
    optimizer = TAG([nn.Parameter(torch.zeros(1))], 0.1)
    with pytest.raises(ValueError, match="base must be the same in all groups, got 'adam' and 'rmsprop'"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "base": "adam"})
    with pytest.raises(ValueError, match="lr must be positive"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.0})
    assert len(optimizer.param_groups) == 1


def test_bad_task_boundaries():
    param = nn.Parameter(torch.zeros(1))
    optimizer = TAG([param], 0.1)
    with pytest.raises(ValueError, match="between 0 and 0, the next new task, got 1"):
        optimizer.begin_task(1)
    with pytest.raises(TypeError, match="task must be an integer, got '0'"):
        optimizer.begin_task("0")
    train(optimizer, [param], [0, 1])
    with pytest.raises(ValueError, match="between 0 and 2, the next new task, got 3"):
        optimizer.begin_task(3)
    with pytest.raises(ValueError, match="got -1"):
        optimizer.begin_task(-1)
    with pytest.raises(RuntimeError, match="no task is open: call begin_task"):
        optimizer.step()


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = TAG(embedding.parameters(), 0.1)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step()


def test_state_of_another_optimizer_is_refused():
    params = [nn.Parameter(torch.zeros(1))]
    with pytest.raises(ValueError, match="must come from a TAG optimizer"):
        TAG(params, 0.1).load_state_dict(torch.optim.SGD(params, 0.1).state_dict())
    with pytest.raises(ValueError, match="state_dict is that of base='adam', this has 'rmsprop'"):
        TAG(params, 0.1).load_state_dict(TAG(params, 0.1, base="adam").state_dict())
