"""Changes of size: two small functions side by side, one for parameters and one for their moments.

Both follow one index map, ``new[i] = old[index[i]]``, so rows and what the optimiser remembers of them cannot
come apart. Duplicating a row names it twice, pruning leaves it out. Anchor: gsplat's ``strategy/ops.py``.
Shapes: N old rows, M new rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from dreamprop.optim.moments import MomentKey
from dreamprop.state import check_names


def resize_params(
    params: Mapping[str, Tensor],
    names: Collection[str],
    index: Tensor,
    values: Mapping[str, Tensor] | None = None,
    fresh: Tensor | None = None,
) -> dict[str, Tensor]:
    """Parameters with the rows of some of them mapped.

    Args:
        params: all parameters; those that are not named are kept as they are.
        names: those whose first dimension is mapped.
        index: [M] the old row of each new one.
        values: by name [M, ...] what fresh rows hold instead of their old row, as a split moves both halves;
            draw its noise from ``dreamprop.rng.generator(seed, step, "split")``.
        fresh: [M] which rows are fresh; none by default.

    Returns:
        New tensors for the named ones, [M, ...].
    """
    _check(params, names, index, fresh)
    check_names("values", {n: n for n in (values or {})}, {n: n for n in names if n in (values or {})})
    resized = dict(params)
    for name in names:
        rows = params[name][index]
        if values is not None and name in values:
            if fresh is None or values[name].shape != rows.shape:
                raise ValueError(
                    f"values must come with fresh and have shape {tuple(rows.shape)}, got "
                    f"{tuple(values[name].shape)} for {name}; give a value for each new row"
                )
            rows[fresh] = values[name][fresh].to(rows.dtype)
        resized[name] = rows
    return resized


def resize_moments(
    moments: Mapping[str, Tensor],
    names: Collection[str],
    index: Tensor,
    fresh: Tensor | None = None,
) -> dict[str, Tensor]:
    """Moments of the same parameters, mapped by the same rows.

    Args:
        moments: all moments, by ``<parameter>/<moment>``; those of other parameters, and scalars, are kept.
        names: parameters whose first dimension is mapped.
        index: [M] the old row of each new one.
        fresh: [M] rows that begin with moments of 0; none by default.

    Returns:
        New tensors for the named ones, [M, ...].
    """
    resized = dict(moments)
    for key, moment in moments.items():
        if MomentKey.parse(key).parameter in names and moment.ndim:
            rows = moment[index]
            if fresh is not None:
                rows[fresh] = 0
            resized[key] = rows
    return resized


def _check(params: Mapping[str, Tensor], names: Collection[str], index: Tensor, fresh: Tensor | None) -> None:
    unknown = [name for name in names if name not in params]
    if unknown:
        raise ValueError(f"names must be parameters, got {unknown[0]!r}; give some of {', '.join(params)}")
    if len({params[name].shape[0] for name in names}) > 1:
        sizes = ", ".join(f"{name} {params[name].shape[0]}" for name in names)
        raise ValueError(
            f"parameters of one index map must have the same rows, got {sizes}; resize them apart"
        )
    if fresh is not None and fresh.shape != index.shape:
        raise ValueError(
            f"fresh must have shape {tuple(index.shape)}, got {tuple(fresh.shape)}; mark each new row"
        )
