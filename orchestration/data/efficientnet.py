"""EfficientNet-Lite0 up to its pooled features: grey pictures in, 1,280 numbers each out.

MBConv blocks of arXiv 1905.11946 without squeeze-and-excitation and with ReLU6, as in the Lite models of
tensorflow/tpu (Apache-2.0). Batch normalisation is folded into the convolutions when the weights are loaded.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad, relu6

SIDE: Final = 96
"""Pictures are scaled to this many pixels in both directions."""
STRIDES: Final = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
"""Of the 16 blocks; all other sizes are the weights' own."""
NORM_EPSILON: Final = 1e-3
PIXEL_MEAN: Final = 127.0
PIXEL_SCALE: Final = 128.0
BATCH_PICTURES: Final = 32

Weights = Mapping[str, Tensor]


class Convolution(nn.Module):
    """A bias-free convolution with the normalisation behind it, and ReLU6 unless told otherwise.

    The output has size ⌈size / stride⌉; of an odd number of padded pixels the larger half is at the far end.
    """

    def __init__(self, weights: Weights, name: str, norm: str, stride: int = 1, activated: bool = True) -> None:
        super().__init__()
        kernel = weights[f"{name}.weight"]
        scale = weights[f"{norm}.weight"] / torch.sqrt(weights[f"{norm}.running_var"] + NORM_EPSILON)
        shift = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
        self.kernel = nn.Parameter((kernel * scale[:, None, None, None]).contiguous(memory_format=torch.channels_last))
        self.shift = nn.Parameter(shift)
        self.stride = stride
        self.groups = len(kernel) if kernel.shape[1] == 1 else 1
        self.activated = activated

    def forward(self, pictures: Tensor) -> Tensor:
        """Map [n, channels, side, side] to [n, channels out, ⌈side / stride⌉, ⌈side / stride⌉]."""
        side = pictures.shape[-1]
        padded = max((-(-side // self.stride) - 1) * self.stride + self.kernel.shape[-1] - side, 0)
        near, far = padded // 2, padded - padded // 2
        if near != far:
            pictures, near = pad(pictures, (near, far, near, far)), 0
        result = conv2d(pictures, self.kernel, self.shift, self.stride, near, groups=self.groups)
        return relu6(result) if self.activated else result


class Block(nn.Module):
    """Widen, convolve each channel on its own, project; the input is added where shapes allow."""

    def __init__(self, weights: Weights, name: str, stride: int) -> None:
        super().__init__()
        widens = f"{name}._expand_conv.weight" in weights
        self.layers = nn.Sequential(
            Convolution(weights, f"{name}._expand_conv", f"{name}._bn0") if widens else nn.Identity(),
            Convolution(weights, f"{name}._depthwise_conv", f"{name}._bn1", stride),
            Convolution(weights, f"{name}._project_conv", f"{name}._bn2", activated=False),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Map [n, channels, side, side] to [n, channels out, ⌈side / stride⌉, ⌈side / stride⌉]."""
        result: Tensor = self.layers(pictures)
        return result + pictures if result.shape == pictures.shape else result


class EfficientNetLite0(nn.Module):
    """The network up to its pooled features, for inference."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Convolution(weights, "_conv_stem", "_bn0", stride=2),
            *(Block(weights, f"_blocks.{number}", stride) for number, stride in enumerate(STRIDES)),
            Convolution(weights, "_conv_head", "_bn1"),
        )

    @classmethod
    def load(cls, path: Path) -> "EfficientNetLite0":
        """Read the weight file; tensors only, so that nothing in it is run."""
        return cls(torch.load(path, map_location="cpu", weights_only=True)).eval()

    def forward(self, pictures: Tensor) -> Tensor:
        """Map normalised pictures, [n, 3, side, side], to [n, 1280]."""
        features: Tensor = self.layers(pictures.contiguous(memory_format=torch.channels_last))
        return features.mean((2, 3))

    def embed(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return features, [n, 1280], of grey pictures, [n, height, width], enlarged bilinearly to 96 × 96 pixels."""
        features = []
        with torch.inference_mode():
            for start in range(0, len(pictures), BATCH_PICTURES):
                batch = torch.tensor(pictures[start : start + BATCH_PICTURES], dtype=torch.float32)[:, None]
                enlarged = interpolate(batch, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
                features.append(self((enlarged.expand(-1, 3, -1, -1) - PIXEL_MEAN) / PIXEL_SCALE))
        return torch.cat(features).numpy()
