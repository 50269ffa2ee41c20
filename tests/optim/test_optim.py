"""Optimisers against ``torch.optim``, and Adan against its paper, over hundreds of random steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dreamprop.optim import SGD, Adam, AdamW, Adan, ParamGroup
from dreamprop.schedule import schedule

SHAPES = {"a": (30, 7), "b": (5,), "c": (), "empty": (0, 3), "large": (33000,)}
T = torch.optim

CASES: list[tuple[Callable, Callable]] = [
    (SGD, lambda p: T.SGD(p, lr=0.01)),
    (lambda g: SGD(g, 0.9), lambda p: T.SGD(p, lr=0.01, momentum=0.9)),
    (
        lambda g: SGD(g, 0.9, nesterov=True, weight_decay=0.1),
        lambda p: T.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    ),
    (
        lambda g: SGD(g, 0.8, dampening=0.3, maximize=True),
        lambda p: T.SGD(p, lr=0.01, momentum=0.8, dampening=0.3, maximize=True),
    ),
    (Adam, lambda p: T.Adam(p, lr=0.01)),
    (Adam, lambda p: T.Adam(p, lr=0.01, foreach=True)),
    (lambda g: Adam(g, (0.5, 0.9), 1e-5, 0.1), lambda p: T.Adam(p, 0.01, (0.5, 0.9), 1e-5, 0.1)),
    (lambda g: Adam(g, amsgrad=True), lambda p: T.Adam(p, lr=0.01, amsgrad=True)),
    (AdamW, lambda p: T.AdamW(p, lr=0.01)),
    (
        lambda g: AdamW(g, weight_decay=0.3, amsgrad=True),
        lambda p: T.AdamW(p, 0.01, weight_decay=0.3, amsgrad=True),
    ),
]


def random(dtype: torch.dtype, g: torch.Generator) -> dict[str, Tensor]:
    return {n: torch.randn(s, generator=g, dtype=dtype) for n, s in SHAPES.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_bit_for_bit_torch(case: int, dtype: torch.dtype) -> None:
    make, reference = CASES[case]
    g = torch.Generator().manual_seed(case)
    params = random(dtype, g)
    theirs = {n: p.clone().requires_grad_() for n, p in params.items()}
    ours, optimizer = make([ParamGroup(tuple(SHAPES), 0.01)]), reference(list(theirs.values()))
    moments = ours.init(params)
    for step in range(200):
        grads = random(dtype, g)
        params, moments = ours.update(params, moments, grads, step)
        for name, p in theirs.items():
            p.grad = grads[name].clone()
        optimizer.step()
        assert all(torch.equal(params[n], theirs[n]) for n in params), step


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_groups_and_schedules(kind: str) -> None:
    """Learning rates and options by group and by step, as a LambdaLR and a hand on param_groups set them."""
    g = torch.Generator().manual_seed(0)
    params = random(torch.float64, g)
    theirs = {n: p.clone().requires_grad_() for n, p in params.items()}
    first, rest = ("a", "b"), ("c", "empty", "large")
    groups = [
        ParamGroup(
            first, [10, 0.1, 0.01, 60], {"weight_decay": lambda step: 0.1 if step < 50 else 0.2}, "first"
        ),
        ParamGroup(rest, lambda step: 0.05 / (step + 1)),
    ]
    ours = {"SGD": SGD, "AdamW": AdamW}[kind](groups, weight_decay=0.3)
    optimizer = getattr(T, kind)([{"params": [theirs[n] for n in names]} for names in (first, rest)], lr=1)
    moments = ours.init(params)
    for step in range(100):
        lr = 0.1 + (0.01 - 0.1) * min(max((step - 10) / 50, 0), 1)
        optimizer.param_groups[0].update(lr=lr, weight_decay=0.1 if step < 50 else 0.2)
        optimizer.param_groups[1].update(lr=0.05 / (step + 1), weight_decay=0.3)
        grads = random(torch.float64, g)
        params, moments = ours.update(params, moments, grads, step)
        for name, p in theirs.items():
            p.grad = grads[name].clone()
        optimizer.step()
        assert ours.groups(step)["first"].names == first
        assert all(torch.equal(params[n], theirs[n]) for n in params), step
    if kind == "AdamW":
        assert ours.groups(35)["first"].step == pytest.approx(0.055) and ours.groups(1)["1"].step == 0.025
    else:
        assert ours.groups(35)["first"].step is None


def test_adan_is_the_papers_formula() -> None:
    """arXiv:2208.06677, algorithm 1, bias-corrected; betas there are 1 minus ours. float64, so 1e-12."""
    g = torch.Generator().manual_seed(0)
    lr, decay, eps, (b1, b2, b3) = 0.01, 0.02, 1e-8, (1 - 0.98, 1 - 0.92, 1 - 0.99)
    x = torch.randn(50, generator=g, dtype=torch.float64)
    adan = Adan([ParamGroup(("x",), lr)], weight_decay=decay)
    params: dict[str, Tensor] = {"x": x.clone()}
    moments = adan.init(params)
    m = v = n = torch.zeros_like(x)
    before = None
    for k in range(1, 301):
        grad = torch.randn(50, generator=g, dtype=torch.float64) + x
        difference = torch.zeros_like(grad) if before is None else grad - before
        m = (1 - b1) * m + b1 * grad
        v = (1 - b2) * v + b2 * difference
        n = (1 - b3) * n + b3 * (grad + (1 - b2) * difference) ** 2
        m_hat, v_hat, n_hat = m / (1 - (1 - b1) ** k), v / (1 - (1 - b2) ** k), n / (1 - (1 - b3) ** k)
        x = (x - lr / (n_hat.sqrt() + eps) * (m_hat + (1 - b2) * v_hat)) / (1 + lr * decay)
        before = grad
        params, moments = adan.update(params, moments, {"x": grad}, k - 1)
        torch.testing.assert_close(params["x"], x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda g: SGD(g, 0.9),
        lambda g: SGD(g, 0.9, dampening=0.2),
        lambda g: SGD(g, 0.9, nesterov=True),
        Adam,
        lambda g: Adam(g, weight_decay=0.0, amsgrad=True),
        lambda g: AdamW(g, weight_decay=0.1),
        lambda g: Adan(g, weight_decay=0.1),
    ],
)
@pytest.mark.parametrize("count", [1, 3, 50])
def test_prediction_under_a_constant_gradient_is_the_update(make: Callable, count: int) -> None:
    """Where the gradient is its own mean, five predictions are five updates. float64 rounding, so 1e-10."""
    g = torch.Generator().manual_seed(0)
    params, grads = random(torch.float64, g), random(torch.float64, g)
    optimizer = make([ParamGroup(tuple(SHAPES), 0.01)])
    moments = optimizer.init(params)
    for step in range(count):
        params, moments = optimizer.update(params, moments, grads, step)
    guess, carried = dict(params), dict(moments)
    for step in range(count, count + 5):
        guess, carried = optimizer.predict(guess, carried, step)
        params, moments = optimizer.update(params, moments, grads, step)
    for name in params:
        torch.testing.assert_close(guess[name], params[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", [SGD, Adam, AdamW, Adan])
def test_names_must_agree(make: Callable) -> None:
    x = {"x": torch.zeros(2), "y": torch.zeros(2)}
    optimizer = make([ParamGroup(("x", "y"), 0.1)])
    moments = optimizer.init(x)
    with pytest.raises(ValueError, match="missing y;"):
        optimizer.update(x, moments, {"x": x["x"]}, 0)
    with pytest.raises(ValueError, match=r"(got|missing) z;"):
        optimizer.update(x, moments, {**x, "z": x["x"]}, 0)
    with pytest.raises(ValueError, match=r"(got|missing) z;"):
        optimizer.init({**x, "z": x["x"]})


def test_schedules() -> None:
    assert schedule(3)(7) == 3
    assert schedule(lambda step: step / 2)(7) == 3.5
    assert [schedule([10, 1.0, 3.0, 20])(t) for t in (0, 10, 15, 20, 99)] == [1, 1, 2, 3, 3]
    assert [schedule([1.0, 3.0, 20])(t) for t in (0, 10, 30)] == [1, 2, 3]
    for wrong in ("fast", [1, 2], [1, 2, 3, 4, 5], None, [5, 1, 2, 5]):
        with pytest.raises(ValueError, match="; write a number"):
            schedule(wrong)  # type: ignore[arg-type]
