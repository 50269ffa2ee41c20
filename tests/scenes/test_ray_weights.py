"""The weights of samples along a ray: nerfacc's, and those whose sums have an order."""

import torch

from dreamprop.scenes.ray_weights import ordered, ray_weights


def test_ordered_weights_are_nerfaccs() -> None:
    """With their gradients; sums of 48 float32 numbers around 1 in another order are right to 1e-5."""
    g = torch.Generator().manual_seed(0)
    density = torch.randn(50, 48, generator=g).exp() * (torch.rand(50, 48, generator=g) < 0.3)
    grad = torch.randn(50, 48, generator=g)
    results = []
    for weights_of in (ray_weights, ordered):
        leaf = density.clone().requires_grad_()
        weights = weights_of(leaf, 0.1)
        weights.backward(grad)
        results.append((weights.detach(), leaf.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_weights_and_what_is_left_of_the_light_are_all_of_it() -> None:
    """``sum_i w_i = 1 - exp(-sum_i sigma_i d)``, in float64."""
    density = torch.rand(20, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5
    left = torch.exp(-density.sum(-1) * 0.05)
    torch.testing.assert_close(ordered(density, 0.05).sum(-1), 1 - left, rtol=1e-12, atol=1e-12)
