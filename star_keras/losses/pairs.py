"""Sums over all pairs of a batch, block by block: memory linear in the batch, float32 inside."""

import math

from keras import ops

from star_keras import backend

_EXCLUDED = -1e30
_LOWEST = -3e38
_WIDEST_GAP = 40.0


def log_sum_exp_of_others(vectors, block_size=512):
    """`log(sum_{j != i} exp(vectors[i] @ vectors[j]))` for every vector, in linear memory.

    The products are symmetric: on a ring of an odd number of blocks, each block meets itself and the
    half of the ring that follows it, and so every pair is looked at once. Products are made again in
    the backward pass rather than kept, which comes to two products of `n x n x d` in all.

    Args:
        vectors: `(n, d)` float32. Products are exponentiated as they are and have to lie between
            about -30 and 30; `log_sum_exp_of_keys` takes any.
        block_size: most rows of a block, an int. Defaults to 512.

    Returns:
        `(n,)` float32 values.
    """
    count = ops.shape(vectors)[0]
    half = (count + block_size - 1) // block_size // 2
    block = (count + 2 * half) // (2 * half + 1)
    ahead = half * block
    around, panel = block + 2 * ahead, block + ahead
    later = ops.cast(ops.arange(block)[:, None] < ops.arange(block), "float32")

    def ring(array):
        padding = ops.zeros((array.shape[0], around - count), dtype="float32")
        array = ops.concatenate([array, padding], axis=1)
        return ops.concatenate([array, array[:, :ahead]], axis=1)

    def unring(array):
        folded = array[:, :ahead] + array[:, around:]
        return ops.concatenate([folded, array[:, ahead:around]], axis=1)[:, :count]

    def cut(array, first, size):
        return ops.slice(array, (0, first), (array.shape[0], size))

    def add(array, first, size, update):
        return ops.slice_update(array, (0, first), cut(array, first, size) + update)

    def exponentials(columns, first):
        pairs = ops.exp(ops.matmul(ops.transpose(cut(columns, first, block)), cut(columns, first, panel)))
        return ops.slice_update(pairs, (0, 0), later * pairs[:, :block])

    def forward(vectors):
        columns = ring(ops.transpose(vectors))
        present = ring(ops.ones((1, count), dtype="float32"))

        def add_sums(step, sums):
            first = step * block
            pairs = exponentials(columns, first)
            of_rows = ops.matmul(pairs, ops.transpose(cut(present, first, panel)))
            sums = add(sums, first, block, ops.transpose(of_rows))
            return add(sums, first, panel, ops.matmul(cut(present, first, block), pairs))

        sums = unring(backend.sequential_loop(2 * half + 1, add_sums, ops.zeros_like(present)))

        def backward(upstream):
            shares = ring(upstream[None] / sums)

            def add_gradients(step, gradients):
                first = step * block
                weights = ops.transpose(cut(shares, first, block)) + cut(shares, first, panel)
                weights = weights * exponentials(columns, first)
                of_rows = ops.matmul(weights, ops.transpose(cut(columns, first, panel)))
                gradients = add(gradients, first, block, ops.transpose(of_rows))
                return add(gradients, first, panel, ops.matmul(cut(columns, first, block), weights))

            gradients = backend.sequential_loop(2 * half + 1, add_gradients, ops.zeros_like(columns))
            return (ops.transpose(unring(gradients)),)

        return ops.log(sums[0]), backward

    return backend.custom_gradient(forward)(vectors)


def log_sum_exp_of_keys(rows, keys, own, block_size=512):
    """`log(sum_{j != own[i]} exp(rows[i] @ keys[j]))` for every row, in linear memory.

    Products are made for a block of rows at a time, and again in the backward pass: four products of
    `n x m x d` in all.

    Args:
        rows: `(n, d)` float32, products of any size.
        keys: `(m, d)` float32.
        own: `(n,)` int32, for each row the key that it is not compared with.
        block_size: most rows of a block, an int. Defaults to 512.

    Returns:
        `(n,)` float32 values.
    """
    count = ops.shape(rows)[0]
    steps, block = _cut_evenly(count, block_size)

    def start(step):
        return ops.minimum(step * block, count - block)

    def cut(array, first):
        return ops.slice(array, (first, 0), (block, array.shape[1]))

    def similarities(rows, keys, first):
        products = ops.matmul(cut(rows, first), ops.transpose(keys))
        return ops.where(cut(own[:, None], first) == ops.arange(ops.shape(keys)[0]), _EXCLUDED, products)

    def forward(rows, keys):
        def fill(step, values):
            first = start(step)
            block_values = ops.logsumexp(similarities(rows, keys, first), axis=1, keepdims=True)
            return ops.slice_update(values, (first, 0), block_values)

        values = backend.sequential_loop(steps, fill, ops.zeros_like(rows[:, :1]))

        def backward(upstream):
            def add_gradients(step, gradients):
                of_rows, of_keys = gradients
                first = start(step)
                # The last block reaches back over rows that are done, for all have one size.
                fresh = first + ops.arange(block)[:, None] >= step * block
                weights = ops.exp(similarities(rows, keys, first) - cut(values, first))
                weights = weights * ops.where(fresh, cut(upstream[:, None], first), 0.0)
                update = cut(of_rows, first) + ops.matmul(weights, keys)
                of_keys = of_keys + ops.matmul(ops.transpose(cut(rows, first)), weights)
                return ops.slice_update(of_rows, (first, 0), update), of_keys

            zeros = ops.zeros_like(rows), ops.zeros_like(ops.transpose(keys))
            of_rows, of_keys = backend.sequential_loop(steps, add_gradients, zeros)
            return of_rows, ops.transpose(of_keys)

        return values[:, 0], backward

    return backend.custom_gradient(forward)(rows, keys)


def partner_surprise(rows, keys, partnered, **layout):
    """`log(sum of exp over others) - log(sum of exp over partners)` of every row, in linear memory.

    Logits are `rows[i] @ keys[j]`, made for a block of rows at a time and again in the backward pass. The
    others of a row are all keys but its own; its partners are those of its group. Both sums have their
    own maximum, so that neither value nor gradient is lost where the partners are far away.

    Args:
        rows: `(n, d)` float32, products of any size.
        keys: `(m, d)` float32.
        partnered: `(n,)` bool, rows that have a partner. The others have value and gradient 0.
        first_own: index of the own key of the first row; those of the others follow.
        row_groups: `(n,)` int32, groups of the rows.
        key_groups: `(m,)` int32, groups of the keys, -1 for keys that nobody sees.
        hidden_keys: whether there may be keys that nobody sees.
        last_is_added: whether the last column of the keys is added to the products, those of the rows being
            ones: not multiplied, it keeps its digits where an accelerator drops some.
        block_size: most rows of a block, an int.

    Returns:
        `(n,)` float32 values.
    """
    partnered = partnered[:, None]

    def forward(rows, keys):
        blocks = _PartnerBlocks(rows, keys, **layout)
        sums = _partner_sums(blocks, partnered)
        values = ops.where(partnered, _surprise(sums), 0.0)[:, 0]

        def backward(upstream):
            return _partner_gradients(blocks, sums, ops.where(partnered, upstream[:, None], 0.0))

        return values, backward

    return backend.custom_gradient(forward)(rows, keys)


def partner_slope(rows, keys, partnered, **layout):
    """What `partner_surprise` would gain for every row if all logits were multiplied by a little more than 1.

    The mean logit of the others less that of the partners, each weighed by its exponential. Arguments
    as there; without gradient.
    """
    blocks = _PartnerBlocks(ops.stop_gradient(rows), ops.stop_gradient(keys), **layout)
    partnered = partnered[:, None]

    def fill(step, slopes):
        first = blocks.first(step)
        logits = blocks.logits(first)
        of_partners = ops.where(blocks.partners(first), logits, _LOWEST)
        slope = _mean_by_exponential(logits) - _mean_by_exponential(of_partners)
        return ops.slice_update(slopes, (first, 0), ops.where(blocks.cut(partnered, first), slope, 0.0))

    return backend.sequential_loop(blocks.steps, fill, ops.zeros_like(blocks.rows[:, :1]))[:, 0]


def _mean_by_exponential(logits):
    """Mean of each row of `logits`, weighed by their exponentials."""
    weights = ops.softmax(logits, axis=1)
    return ops.sum(ops.where(weights > 0, weights * logits, 0.0), axis=1, keepdims=True)


class _PartnerBlocks:
    """Rows and the keys they are compared with, `block_size` rows at a time; see `partner_surprise`."""

    def __init__(self, rows, keys, first_own, row_groups, key_groups, hidden_keys, last_is_added, block_size):
        self.rows, self.keys = rows, keys
        self.factors, self.added = (rows, keys), None
        if last_is_added:
            self.factors, self.added = (rows[:, :-1], keys[:, :-1]), ops.transpose(keys[:, -1:])
        self.first_own = first_own
        self.row_groups, self.key_groups = row_groups[:, None], key_groups[None]
        self.hidden_keys = hidden_keys
        self.count = ops.shape(rows)[0]
        self.steps, self.block = _cut_evenly(self.count, block_size)

    def first(self, step):
        """First row of a block. The last block reaches back over rows that are done: all have one size."""
        return ops.minimum(step * self.block, self.count - self.block)

    def fresh(self, step):
        """`(block, 1)` bool, rows of a block that no block before it had.

        Sums and gradients of a row come from one block: products of the same row differ by rounding from
        block to block, and large logits make much of little.
        """
        return self.first(step) + ops.arange(self.block)[:, None] >= step * self.block

    def cut(self, array, first):
        return ops.slice(array, (first, 0), (self.block, ops.shape(array)[1]))

    def logits(self, first):
        """Logits of a block, lowest for own and hidden keys."""
        rows, keys = self.factors
        logits = ops.matmul(self.cut(rows, first), ops.transpose(keys))
        logits = logits if self.added is None else logits + self.added
        corner = (0, self.first_own + first)
        index = ops.arange(self.block)
        own = ops.slice(logits, corner, (self.block, self.block))
        own = ops.where(index[:, None] == index, _LOWEST, own)
        logits = ops.slice_update(logits, corner, own)
        return ops.where(self.key_groups < 0, _LOWEST, logits) if self.hidden_keys else logits

    def partners(self, first):
        """Whether a key is of the group of a row; own keys have no weight by their logit."""
        return self.cut(self.row_groups, first) == self.key_groups


def _cut_evenly(count, block_size):
    """`(number, size)` of the blocks of so many rows; a replica without rows has an empty one."""
    number = (count + block_size - 1) // block_size
    number = max(number, 1) if isinstance(number, int) else ops.maximum(number, 1)
    return number, (count + number - 1) // number


def _surprise(sums):
    """`sums` are columns: maximum and log-sum of exp of the others, then the same two of the partners."""
    return (sums[:, :1] - sums[:, 2:3]) + (sums[:, 1:2] - sums[:, 3:])


def _partner_sums(blocks, partnered):
    def fill(step, sums):
        first = blocks.first(step)
        logits, partners, needed = blocks.logits(first), blocks.partners(first), blocks.cut(partnered, first)
        top = ops.max(logits, axis=1, keepdims=True)
        exponentials = ops.exp(logits - top)
        total = ops.sum(exponentials, axis=1, keepdims=True)
        share = ops.sum(ops.where(partners, exponentials, 0.0), axis=1, keepdims=True)
        far = ops.logical_and(needed, share < math.exp(-_WIDEST_GAP) * total)

        def at_hand():
            return top, ops.log(ops.where(needed, share, 1.0))

        def apart():
            of_partners = ops.where(partners, logits, _LOWEST)
            nearest = ops.max(of_partners, axis=1, keepdims=True)
            return nearest, ops.log(ops.sum(ops.exp(of_partners - nearest), axis=1, keepdims=True))

        columns = ops.concatenate([top, ops.log(total), *ops.cond(ops.any(far), apart, at_hand)], axis=1)
        columns = ops.where(blocks.fresh(step), columns, blocks.cut(sums, first))
        return ops.slice_update(sums, (first, 0), columns)

    empty = ops.zeros_like(blocks.rows[:, :1]) + ops.zeros((1, 4), "float32")
    return backend.sequential_loop(blocks.steps, fill, empty)


def _partner_gradients(blocks, sums, upstream):
    def add_gradients(step, gradients):
        of_rows, of_keys = gradients
        first = blocks.first(step)
        logits, partners, columns = blocks.logits(first), blocks.partners(first), blocks.cut(sums, first)
        surprise = _surprise(columns)
        factor = ops.where(blocks.fresh(step), blocks.cut(upstream, first), 0.0)
        shares = ops.exp(logits - columns[:, :1] - columns[:, 1:2])
        near = ops.minimum(surprise, _WIDEST_GAP)

        def at_hand():
            return shares * ops.where(partners, -ops.expm1(near) * factor, factor)

        def apart():
            of_partners = ops.exp(ops.where(partners, logits, _LOWEST) - columns[:, 2:3] - columns[:, 3:])
            return (shares - of_partners) * factor

        far = ops.logical_and(factor != 0, surprise > _WIDEST_GAP)
        weights = ops.cond(ops.any(far), apart, at_hand)
        update = blocks.cut(of_rows, first) + ops.matmul(weights, blocks.keys)
        of_keys = of_keys + ops.matmul(ops.transpose(blocks.cut(blocks.rows, first)), weights)
        return ops.slice_update(of_rows, (first, 0), update), of_keys

    zeros = ops.zeros_like(blocks.rows), ops.zeros_like(ops.transpose(blocks.keys))
    of_rows, of_keys = backend.sequential_loop(blocks.steps, add_gradients, zeros)
    return of_rows, ops.transpose(of_keys)
