"""Stateless tensor mathematics that two rooms or more use; float32 inside, finite gradients everywhere."""

from keras import ops

from star_keras import backend

_EXCLUDED = -1e30


def l2_normalize(inputs, axis=-1, epsilon=1e-12):
    """Scales vectors to length one in float32: `x / sqrt(max(sum(x**2), epsilon))`.

    Args:
        inputs: tensor of any float type. Vectors whose squares overflow are normalised as well.
        axis: axis of the vectors. Defaults to the last.
        epsilon: smallest squared length; a zero vector stays zero and has a finite gradient.

    Returns:
        A float32 tensor of the shape of `inputs`.
    """
    inputs = ops.cast(inputs, "float32")
    largest = ops.max(ops.abs(inputs), axis=axis, keepdims=True)
    inputs = inputs / ops.stop_gradient(ops.maximum(largest, 1.0))
    squared = ops.sum(ops.square(inputs), axis=axis, keepdims=True)
    return inputs * ops.rsqrt(ops.maximum(squared, epsilon))


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
    steps = (count + block_size - 1) // block_size
    block = (count + steps - 1) // steps

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
