"""One table says how every parameter is trained; members of a fleet are trained independently.

A table is a sequence of (regular expression, Group). The expression has to match a parameter's whole
path, e.g. `mpt/shared` or `encoder/layers_0/mlp/wo/kernel`; the first match wins and a parameter that
no row covers is an error.

    optimizer = Optimizer(
        [(".*/shared", Group(0.3, AdamW())), (".*/[uv]", Group(0.4, AdamW()))],
        params,
        members={"mpt": 8},
    )

In a fleet every array has a leading axis of members, M of them in a method. Each member has its own
gradient norm, optimizer state, learning rate, and length of run; nothing passes between members.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mpt_jax.errors import UserError
from mpt_jax.methods.method import Method
from mpt_jax.training.schedules import Constant, Schedule
from mpt_jax.training.update_rules import AdamW, Rule

OptState = dict[str, Any]  # {parameter path: state of its rule}; frozen parameters have none.


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """How the parameters of one row of the table are trained.

    Attributes:
        learning_rate: one number, or one for each member [M] of the method whose parameters the row
            matches. 0 freezes a member's parameters exactly (no weight decay either); None freezes
            all and keeps no optimizer state.
        rule: the update rule.
        schedule: factor on the learning rate over the run.
    """

    learning_rate: float | Sequence[float] | np.ndarray | None
    rule: Rule = dataclasses.field(default_factory=AdamW)
    schedule: Schedule = dataclasses.field(default_factory=Constant)


Table = Sequence[tuple[str, Group]]


@dataclasses.dataclass(frozen=True, eq=False)
class _Leaf:
    """What the optimizer knows of one trained parameter."""

    path: str
    index: int  # among the tree's leaves
    method: str
    group: Group
    rate: np.ndarray  # [] or [M]
    nested: int  # leading axes that are separate problems


class Optimizer:
    """The table, resolved for a tree of parameters.

    Args:
        table: rows of (path expression, Group).
        params: the trainable tree (or its shapes). In a fleet {method: {name: [M, ...]}}.
        members: {method: M} in the order in which the fleet's members are numbered (a bank's order);
            None for a tree without an axis of members, such as a whole model, which is one member.
        clip_norm: largest norm of a member's gradient over all its trained parameters; larger ones
            are scaled down to it. None does not clip.
        steps: length of the run, which schedules may need.
        member_steps: length of each member's own run, in the order of `members`; schedules follow
            it, and a member is left exactly as it is from that step on.

    Raises:
        UserError: a parameter without a row, or numbers that do not fit the members.
    """

    def __init__(
        self,
        table: Table,
        params: Any,
        *,
        members: Mapping[str, int] | None,
        clip_norm: float | None = 1.0,
        steps: int | None = None,
        member_steps: Sequence[int] | np.ndarray | None = None,
    ):
        self.clip_norm = clip_norm
        self._fleet = members is not None
        self._members = {"": 1} if members is None else dict(members)
        self._member_steps = self._split_member_steps(member_steps)
        self._steps = steps
        self._leaves = self._resolve(table, params)
        self.learning_rates(jnp.zeros((), jnp.int32))  # A schedule without its length fails here.

    @property
    def num_members(self) -> int:
        return sum(self._members.values())

    @property
    def trained(self) -> tuple[str, ...]:
        """Paths of the parameters that are trained."""
        return tuple(leaf.path for leaf in self._leaves)

    def init(self, params: Any) -> OptState:
        """Fresh state of every trained parameter."""
        arrays = jax.tree.leaves(params)
        return {
            leaf.path: _nest(leaf.group.rule.transform().init, leaf.nested)(arrays[leaf.index])
            for leaf in self._leaves
        }

    def update(
        self, grads: Any, state: OptState, params: Any, step: Int[Array, ""]
    ) -> tuple[Any, OptState, Float[Array, "M"]]:
        """One step.

        Args:
            grads: gradients, of the form of `params`.
            state: from `init` or the last update.
            params: the parameters.
            step: steps done before this one.

        Returns:
            New parameters, new state, and each member's gradient norm before clipping.
        """
        gradients, arrays = jax.tree.leaves(grads), jax.tree.leaves(params)
        active = {leaf.path: self._active(leaf, step) for leaf in self._leaves}
        masked = {
            leaf.path: _keep(
                active[leaf.path], gradients[leaf.index], jnp.zeros_like(gradients[leaf.index])
            )
            for leaf in self._leaves
        }
        norms = self._norms(masked)
        new_state = {}
        for leaf in self._leaves:
            gradient, param, old = masked[leaf.path], arrays[leaf.index], state[leaf.path]
            if self.clip_norm is not None:
                scale = self.clip_norm / jnp.maximum(norms[leaf.method], self.clip_norm)
                gradient = gradient * self._along_members(scale, gradient)
            transform = _nest(leaf.group.rule.transform().update, leaf.nested)
            direction, new = transform(gradient, old, param)
            rate = self._along_members(self._rate(leaf, step), param)
            moved = param + leaf.group.rule.delta(direction, param, rate).astype(param.dtype)
            arrays[leaf.index] = _keep(active[leaf.path], moved, param)
            new_state[leaf.path] = jax.tree.map(
                lambda a, b, keep=active[leaf.path]: _keep(keep, a, b), new, old
            )
        params = jax.tree.unflatten(jax.tree.structure(params), arrays)
        return params, new_state, jnp.concatenate([norms[method] for method in self._members])

    def learning_rates(self, step: Int[Array, ""]) -> dict[str, Float[Array, "..."]]:
        """The rate of each trained parameter at a step: one number, or one for each member."""
        return {leaf.path: self._rate(leaf, step) for leaf in self._leaves}

    def _resolve(self, table: Table, params: Any) -> tuple[_Leaf, ...]:
        found = []
        for index, (keys, array) in enumerate(jax.tree_util.tree_flatten_with_path(params)[0]):
            path = jax.tree_util.keystr(keys, simple=True, separator="/")
            group = _first_match(table, path)
            method = path.split("/")[0] if self._fleet else ""
            if self._fleet:
                self._check_members(path, method, array.shape)
            if group.learning_rate is None:
                continue
            rate = np.asarray(group.learning_rate, np.float32)
            allowed = {(), self._shape(method)}
            if rate.shape not in allowed or not np.all(rate >= 0):
                each = f", or {self._members[method]} (one for each member)" if self._fleet else ""
                raise UserError(
                    f"learning rate of {path}: got {group.learning_rate}; expected one number"
                    f"{each}, none below 0."
                )
            nested = int(self._fleet)
            if group.rule.matrices:
                nested = max(nested, len(array.shape) - 2)
            found.append(_Leaf(path, index, method, group, rate, nested))
        return tuple(found)

    def _check_members(self, path: str, method: str, shape: tuple[int, ...]) -> None:
        if method not in self._members:
            raise ValueError(f"{path}: got members for {list(self._members)}, none for {method!r}.")
        if shape[:1] != (self._members[method],):
            raise ValueError(
                f"{path}: got the shape {tuple(shape)}, expected a leading axis of "
                f"{self._members[method]} members."
            )

    def _split_member_steps(self, member_steps) -> dict[str, np.ndarray | None]:
        if member_steps is None:
            return dict.fromkeys(self._members)
        limits = np.asarray(member_steps, np.int32)
        if limits.shape != (self.num_members,):
            raise UserError(
                f"member_steps: got {limits.shape} numbers for {self.num_members} members; give "
                "one for each."
            )
        ends = np.cumsum(list(self._members.values()))[:-1]
        parts = zip(self._members, np.split(limits, ends), strict=True)
        return {method: part.reshape(self._shape(method)) for method, part in parts}

    def _rate(self, leaf: _Leaf, step: Int[Array, ""]) -> Float[Array, "..."]:
        limits = self._member_steps[leaf.method]
        length = self._steps if limits is None else limits
        total = None if length is None else jnp.asarray(length, jnp.float32)
        factor = leaf.group.schedule(step, total)
        shape = np.broadcast_shapes(leaf.rate.shape, factor.shape)
        return jnp.broadcast_to(leaf.rate, shape) * jnp.broadcast_to(factor, shape)

    def _active(self, leaf: _Leaf, step: Int[Array, ""]) -> Bool[Array, "..."] | None:
        """Which members train this parameter at this step; None for all, always."""
        limits = self._member_steps[leaf.method]
        if limits is None and np.all(leaf.rate > 0):
            return None
        active = jnp.broadcast_to(jnp.asarray(leaf.rate > 0), self._shape(leaf.method))
        return active if limits is None else active & (step < limits)

    def _shape(self, method: str) -> tuple[int, ...]:
        """Of numbers that differ between members: [M], or [] in a tree without members."""
        return (self._members[method],) if self._fleet else ()

    def _norms(self, gradients: Mapping[str, Array]) -> dict[str, Float[Array, "M"]]:
        """Each member's norm over the parameters of its method."""
        squares = {method: jnp.zeros((size,)) for method, size in self._members.items()}
        for leaf in self._leaves:
            gradient = gradients[leaf.path].astype(jnp.float32)
            rows = gradient.reshape(self._members[leaf.method], -1)
            squares[leaf.method] = squares[leaf.method] + jnp.sum(jnp.square(rows), axis=1)
        return {method: jnp.sqrt(total) for method, total in squares.items()}

    def _along_members(
        self, numbers: Float[Array, "..."], array: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """Numbers ([] or [M]) in a shape that multiplies an array whose first axis is members."""
        if not self._fleet:
            return numbers.reshape(())
        return numbers.reshape((-1,) + (1,) * (array.ndim - 1))


def _first_match(table: Table, path: str) -> Group:
    for pattern, group in table:
        if re.fullmatch(pattern, path):
            return group
    raise UserError(
        f"parameter {path!r} is covered by no row of the optimizer's table; its expressions are "
        f"{[pattern for pattern, _ in table]}. Add a row (learning rate None freezes)."
    )


def _nest(function, depth: int):
    for _ in range(depth):
        function = jax.vmap(function)
    return function


def _keep(active: Bool[Array, "..."] | None, new: Array, old: Array) -> Array:
    """`new` for active members ([M] or []), exactly `old` for the others."""
    if active is None:
        return new
    return jnp.where(active.reshape(active.shape + (1,) * (new.ndim - active.ndim)), new, old)


def table_for(methods: Iterable[Method], groups: Mapping[str, Group]) -> Table:
    """The table of a bank's methods from one group for each role of their parameters.

    Args:
        methods: e.g. a bank's; `Method.default_groups` says which parameter has which role.
        groups: {role: Group}, e.g. {"shared": Group(0.3), "factors": Group(0.4)} for the two-speed
            rates of MPT.
    """
    table = []
    for method in methods:
        for pattern, role in method.default_groups():
            if role not in groups:
                raise UserError(
                    f"{method.name}: its parameters {pattern!r} have the role {role!r}, but "
                    f"optimizer groups are given for {sorted(groups)} only; add one for {role!r}."
                )
            name = pattern.removeprefix("^").removesuffix("$")
            table.append((f"{re.escape(method.name)}/(?:{name})", groups[role]))
    return table
