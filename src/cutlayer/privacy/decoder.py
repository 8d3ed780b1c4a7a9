"""A decoder that turns what crosses the cut back into images, trained on public ones.

The mean public image, plus the best linear map of how each patch's token differs from the mean of
its place, plus what a small transformer adds: it has a place for each patch, with the token that
stood there, and the tokens that stand for no patch (the prefix, a merged one) beside them. Shapes:
n images [n, C, R, R] from 0 to 1, T' tokens of width D, N patches in S x S.
"""

import math

import torch
from torch import Tensor, nn

from cutlayer.privacy.crossing import Received
from cutlayer.privacy.ridge import ridge
from cutlayer.privacy.token_places import guess_places
from cutlayer.seeds import derive, torch_rng

WIDTH, HEADS, LAYERS = 64, 4, 2
BATCH, RATE = 32, 3e-3
PIXELS = 32
"""Pixels a side of the images that are made, at most."""
_CHECKS = 6
"""Times that training looks at images held out, the best of which it keeps."""
_HELD_OUT = 8
"""One of so many public images is held out."""


def patch_pixels(patches: int, patch_size: int) -> int:
    """Pixels a side of a patch of the images that are made of so many patches."""
    return max(1, min(patch_size, PIXELS // math.isqrt(patches)))


class Decoder(nn.Module):
    """See the file. start: the mean public image [C, R, R]; beside: tokens of no patch."""

    start: Tensor

    def __init__(self, width: int, patches: int, prefix: int, beside: int, start: Tensor) -> None:
        super().__init__()
        self.side, self.prefix = math.isqrt(patches), prefix
        self.channels, self.pixel = len(start), start.shape[-1] // self.side
        self.content = nn.Linear(width, WIDTH)
        self.absent = nn.Parameter(torch.zeros(WIDTH))
        self.place = nn.Parameter(0.02 * torch.randn(patches, WIDTH))
        self.beside = nn.Parameter(0.02 * torch.randn(beside, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        values = self.channels * self.pixel**2
        self.out, self.direct = nn.Linear(WIDTH, values), nn.Linear(width, values)
        for linear in (self.out, self.direct):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.register_buffer("start", start)

    def forward(self, hidden: Tensor, kept: Tensor) -> Tensor:
        """Images [b, C, R, R] of normalised tokens hidden [b, T', D], which stood at kept [b, K]
        behind the prefix.
        """
        last = self.prefix + kept.shape[1]
        content, tokens = self.content(hidden), hidden[:, self.prefix : last]
        grid = self.absent.expand(len(hidden), len(self.place), WIDTH)
        grid = grid.scatter(1, _wide(kept, WIDTH), content[:, self.prefix : last])
        beside = torch.cat([content[:, : self.prefix], content[:, last:]], dim=1)
        rows = torch.cat([grid + self.place, beside + self.beside], dim=1)
        patches = self.out(self.blocks(rows)[:, : len(self.place)])
        linear = self.direct(tokens)
        return self._image(patches.scatter_add(1, _wide(kept, linear.shape[2]), linear))

    @torch.no_grad()
    def fit_direct(self, hidden: Tensor, kept: Tensor, images: Tensor) -> None:
        """Set the linear map to the ridge regression of patches on their tokens."""
        tokens = hidden[:, self.prefix : self.prefix + kept.shape[1]]
        patches = self._patches(images - self.start)
        goals = patches.gather(1, _wide(kept, patches.shape[2]))
        found = ridge(tokens.flatten(0, 1), goals.flatten(0, 1))
        self.direct.weight.copy_(found[:-1].T)
        self.direct.bias.copy_(found[-1])

    def _image(self, patches: Tensor) -> Tensor:
        """[b, N, C p p] -> [b, C, S p, S p], the mean image added."""
        shape = (len(patches), self.side, self.side, self.channels, self.pixel, self.pixel)
        apart = patches.view(shape).permute(0, 3, 1, 4, 2, 5)
        return apart.reshape(len(patches), *self.start.shape) + self.start

    def _patches(self, images: Tensor) -> Tensor:
        """[b, C, S p, S p] -> [b, N, C p p]."""
        shape = (len(images), self.channels, self.side, self.pixel, self.side, self.pixel)
        apart = images.reshape(shape).permute(0, 2, 4, 1, 3, 5)
        return apart.reshape(len(images), len(self.place), -1)


def reconstruct(
    public: Received,
    kept: Tensor,
    images: Tensor,
    attacked: Received,
    patches: int,
    prefix: int,
    steps: int,
    seed: int,
) -> Tensor:
    """Images [m, C, R, R] of what was received of m, by a decoder trained on n public images.

    images [n, C, R, R]: whose activations `public` are, and whose tokens stood at kept [n, K].
    steps: of AdamW, with a rate that falls to 0; the best on images held out is taken.
    """
    mean, deviation = public.hidden.mean((0, 1)), public.hidden.std((0, 1)).clamp(min=1e-6)
    own, other = ((one.hidden - mean) / deviation for one in (public, attacked))
    last = prefix + kept.shape[1]
    there = attacked.kept
    if there is None:
        there = guess_places(own[:, prefix:last], kept, other[:, prefix:last], patches)
    usual = _place_means(own[:, prefix:last], kept, patches)
    for hidden, stood in ((own, kept), (other, there)):
        hidden[:, prefix:last] -= usual[stood]
    order = torch.randperm(len(own), generator=torch_rng(seed, "audit", "held-out"))
    held, used = order[: len(own) // _HELD_OUT], order[len(own) // _HELD_OUT :]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "audit", "decoder"))
        beside = own.shape[1] - kept.shape[1]
        decoder = Decoder(own.shape[2], patches, prefix, beside, images.mean(0))
    decoder.fit_direct(own[used], kept[used], images[used])
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    rng = torch_rng(seed, "audit", "batches")
    checks = {0, *(round(steps * (i + 1) / _CHECKS) for i in range(_CHECKS))}
    best, state = math.inf, decoder.state_dict()
    for step in range(steps + 1):
        if step in checks:
            missed = float(
                (_decoded(decoder, own[held], kept[held]) - images[held]).square().mean()
            )
            if missed < best:
                best, state = missed, {k: v.clone() for k, v in decoder.state_dict().items()}
        rows = used[torch.randint(len(used), (BATCH,), generator=rng)]
        loss = (decoder(own[rows], kept[rows]) - images[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    decoder.load_state_dict(state)
    return _decoded(decoder, other, there)


@torch.no_grad()
def _decoded(decoder: Decoder, hidden: Tensor, kept: Tensor) -> Tensor:
    made: Tensor = decoder(hidden, kept)
    return made.clamp(0, 1)


def _place_means(tokens: Tensor, kept: Tensor, patches: int) -> Tensor:
    """The mean token [N, D] of each place, 0 where none stood: what a position adds, mostly."""
    sums, rows = tokens.new_zeros(patches, tokens.shape[2]), kept.flatten()
    sums.index_add_(0, rows, tokens.flatten(0, 1))
    counts = torch.bincount(rows, minlength=patches).clamp(min=1)
    return sums / counts[:, None]


def _wide(kept: Tensor, width: int) -> Tensor:
    return kept[:, :, None].expand(-1, -1, width)
