"""A residual network in plain float64 NumPy, written from the paper and not from the library.

It takes the numbers of a trained network under PyTorch's names, the layout they are published in.
"""

import numpy as np


def convolve(x, kernel, stride):
    """Maps `(batch, height, width, in)` correlated with `(out, in, k, k)`, padded by k // 2 zeros."""
    size = kernel.shape[-1]
    padding = size // 2
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height = (x.shape[1] - size) // stride + 1
    width = (x.shape[2] - size) // stride + 1
    outputs = np.zeros((len(x), height, width, len(kernel)))
    for i in range(size):
        for j in range(size):
            rows = slice(i, i + stride * (height - 1) + 1, stride)
            columns = slice(j, j + stride * (width - 1) + 1, stride)
            outputs += x[:, rows, columns] @ kernel[:, :, i, j].T
    return outputs


def max_pool(x):
    """3x3 maximum with stride 2 and one pixel of padding that never wins."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    height, width = (x.shape[1] - 3) // 2 + 1, (x.shape[2] - 3) // 2 + 1
    windows = [
        x[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2] for i in range(3) for j in range(3)
    ]
    return np.max(windows, axis=0)


class Network:
    """One network by its numbers.

    Args:
        numbers: `{PyTorch name: array}`; `conv1`, `bn1`, `layer1.0.conv1`, ..., optionally `linear`.
        bottleneck: whether blocks are 1x1, 3x3 with the stride, 1x1.
        stem_stride: of the first convolution.
        pool: whether a maximum follows the stem.
        mean, std: of the pixels divided by 255.
    """

    def __init__(self, numbers, bottleneck=False, stem_stride=1, pool=False, mean=None, std=None):
        self.numbers = {name: np.asarray(value, "float64") for name, value in numbers.items()}
        self.bottleneck, self.stem_stride, self.pool = bottleneck, stem_stride, pool
        self.mean = np.array(mean or (0.485, 0.456, 0.406))
        self.std = np.array(std or (0.229, 0.224, 0.225))

    def norm(self, x, name):
        weight, bias, mean, variance = (
            self.numbers[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias

    def conv(self, x, name, stride=1):
        return convolve(x, self.numbers[f"{name}.weight"], stride)

    def shortcut(self, x, name, stride, width):
        if f"{name}.downsample.0.weight" in self.numbers:
            return self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        if stride == 1:
            return x
        missing = width - x.shape[-1]
        return np.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (missing // 2, missing // 2)))

    def block(self, x, name, stride):
        strides = (1, stride, 1) if self.bottleneck else (stride, 1)
        y = x
        for number, step in enumerate(strides, start=1):
            y = self.norm(self.conv(y, f"{name}.conv{number}", step), f"{name}.bn{number}")
            if number < len(strides):
                y = np.maximum(y, 0)
        return np.maximum(y + self.shortcut(x, name, stride, y.shape[-1]), 0)

    def features(self, images):
        x = (np.asarray(images, "float64") / 255 - self.mean) / self.std
        x = np.maximum(self.norm(self.conv(x, "conv1", self.stem_stride), "bn1"), 0)
        if self.pool:
            x = max_pool(x)
        stage = 1
        while f"layer{stage}.0.conv1.weight" in self.numbers:
            block = 0
            while f"layer{stage}.{block}.conv1.weight" in self.numbers:
                x = self.block(x, f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1)
                block += 1
            stage += 1
        return x.mean((1, 2))

    def logits(self, images):
        return self.features(images) @ self.numbers["linear.weight"].T + self.numbers["linear.bias"]


def torch_names(model):
    """`{PyTorch name: (layer, variable, transposed axes)}` for every variable of a ResNet or a Classifier."""
    names = {}
    for layer in model.layers:
        if layer.name == "classifier":
            names["linear.weight"] = (layer, "kernel", (1, 0))
            names["linear.bias"] = (layer, "bias", None)
            continue
        if not layer.weights:
            continue
        base = _torch_layer(layer.name)
        if hasattr(layer, "kernel"):
            names[f"{base}.weight"] = (layer, "kernel", (2, 3, 1, 0))
        else:
            parts = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean"}
            for theirs, ours in {**parts, "running_var": "moving_variance"}.items():
                names[f"{base}.{theirs}"] = (layer, ours, None)
    return names


def _torch_layer(name):
    if name.startswith("stem"):
        return {"stem_conv": "conv1", "stem_norm": "bn1"}[name]
    stage, block, part = name.split("_", 2)
    part = {"shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1"}.get(part, part)
    stage, block = int(stage.removeprefix("stage")), int(block.removeprefix("block"))
    return f"layer{stage}.{block - 1}.{part.replace('norm', 'bn')}"


def give_numbers(model, numbers):
    """Assigns PyTorch's numbers to the model; every variable gets one and none is left over."""
    names = torch_names(model)
    assert set(names) == {name for name in numbers if not name.endswith("num_batches_tracked")}
    for name, (layer, variable, axes) in names.items():
        value = np.asarray(numbers[name], "float32")
        getattr(layer, variable).assign(value.transpose(axes) if axes else value)


def take_numbers(model):
    """The model's numbers under PyTorch's names."""
    numbers = {}
    for name, (layer, variable, axes) in torch_names(model).items():
        value = np.asarray(getattr(layer, variable))
        # (2, 3, 1, 0) takes PyTorch's axes to ours; its inverse goes back.
        numbers[name] = value.transpose(np.argsort(axes)) if axes else value
    return numbers
