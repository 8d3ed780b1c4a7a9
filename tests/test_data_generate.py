"""Generators: the same images for the same seed, of the right classes, and clear refusals."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from cutlayer.data import diffusion
from cutlayer.data.dataset import Dataset
from cutlayer.data.diffusion import Diffusion
from cutlayer.data.generate import load_generator
from cutlayer.data.sources import load
from cutlayer.errors import DataError
from cutlayer.settings.data import Data
from cutlayer.settings.generator import GeneratorSettings

CLASSES = ("cat", "dog")


def images_of(
    classes: tuple[str, ...] = CLASSES, channels: int = 3, size: tuple[int, int] = (8, 8)
) -> Dataset:
    """Data of a shape, for a generator to fit."""
    pixels = torch.zeros(len(classes), channels, *size, dtype=torch.uint8)
    return Dataset(pixels, np.arange(len(classes)), classes)


@pytest.fixture(scope="session")
def diffusion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny diffusion model of RGB images with random weights."""
    folder = tmp_path_factory.mktemp("diffusion")
    model = Diffusion(CLASSES, (8, 8), 3, fold=2, widths=(8, 16), steps=3, guidance=2.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        diffusion.save(folder, model, diffusion.build(model).state_dict())
    return folder


@pytest.fixture(scope="session")
def autoencoder() -> nn.Module:
    """Turns 4 x 4 latents into 8 x 8 RGB images."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng():
        torch.manual_seed(1)
        return AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=2,
            sample_size=8,
        )


@pytest.fixture(scope="session")
def class_pipeline(tmp_path_factory: pytest.TempPathFactory, autoencoder: nn.Module) -> Path:
    """A tiny class-conditional pipeline that knows a tabby and a dog."""
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    folder = tmp_path_factory.mktemp("dit")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=4,
            in_channels=2,
            out_channels=2,
            num_layers=1,
            sample_size=4,
            patch_size=2,
        )
        with torch.no_grad():
            for parameter in transformer.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
    DiTPipeline(transformer, autoencoder, DDIMScheduler()).save_pretrained(folder)
    index = folder / "model_index.json"
    index.write_text(
        json.dumps({**json.loads(index.read_text()), "id2label": {"0": "tabby, tom", "7": "dog"}})
    )
    return folder


@pytest.fixture(scope="session")
def text_pipeline(tmp_path_factory: pytest.TempPathFactory, autoencoder: nn.Module) -> Path:
    """A tiny text-to-image pipeline whose tokenizer spells words out."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{one}</w>" for one in letters)]
    tokenizer = CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=24
    )
    folder = tmp_path_factory.mktemp("text")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=8,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=24,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=4,
            in_channels=2,
            out_channels=2,
            block_out_channels=(8,),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            layers_per_block=1,
            cross_attention_dim=8,
            attention_head_dim=4,
            norm_num_groups=4,
        )
    StableDiffusionPipeline(
        autoencoder,
        encoder,
        tokenizer,
        unet,
        DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five cats of shades 0 to 4 and three dogs of shades 100 to 102, all RGB."""
    folder = tmp_path_factory.mktemp("images")
    for name, first, count in (("cat", 0, 5), ("dog", 100, 3)):
        (folder / name).mkdir()
        for shade in range(first, first + count):
            Image.new("RGB", (8, 8), (shade, 0, 0)).save(folder / name / f"{shade}.png")
    return folder


SOURCES = ["diffusion", "class_pipeline", "text_pipeline", "folder"]


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> GeneratorSettings:
    """One generator of each kind, all of the same classes and size."""
    path = {
        "diffusion": "diffusion_folder",
        "class_pipeline": "class_pipeline",
        "text_pipeline": "text_pipeline",
        "folder": "image_folder",
    }[request.param]
    return GeneratorSettings(
        source="diffusers" if request.param.endswith("pipeline") else request.param,
        path=str(request.getfixturevalue(path)),
        prompts={"cat": "tabby", "dog": "dog"} if request.param == "class_pipeline" else {},
        steps=3,
    )


@pytest.mark.parametrize("settings", SOURCES, indirect=True)
def test_an_image_depends_on_seed_class_and_number_only(settings: GeneratorSettings) -> None:
    generator = load_generator(settings, images_of())
    labels = np.array([0, 1, 0, 1, 1])
    images = generator.generate(labels, seed=5)
    assert images.shape == (5, 3, 8, 8)
    assert images.dtype == torch.uint8
    assert torch.equal(generator.generate(labels, seed=5), images)
    assert not torch.equal(generator.generate(labels, seed=6), images)
    assert len({image.numpy().tobytes() for image in images}) == 5
    # One at a time, in another order, for data whose classes come in another order, and more.
    other = settings.model_copy(update={"batch": 1})
    turned = load_generator(other, images_of(("dog", "cat")))
    again = turned.generate(np.array([0, 0, 0, 1, 1, 0, 1]), seed=5)[[3, 0, 4, 1, 2]]
    # Arithmetic may round differently in another batch: by a grey level, where at all.
    assert (again.int() - images.int()).abs().max() <= 1


@pytest.mark.parametrize("settings", SOURCES, indirect=True)
def test_the_time_an_image_takes_is_measured(settings: GeneratorSettings) -> None:
    generator = load_generator(settings, images_of())
    assert generator.seconds_per_image is None
    assert generator.generate(np.empty(0, np.int64), seed=0).shape == (0, 3, 8, 8)
    assert generator.seconds_per_image is None
    generator.generate(np.array([0, 1]), seed=0)
    assert generator.seconds_per_image is not None
    assert generator.seconds_per_image > 0


@pytest.mark.parametrize("settings", SOURCES, indirect=True)
def test_images_of_another_size_or_colour_are_refused(settings: GeneratorSettings) -> None:
    with pytest.raises(DataError, match=r"8 x 8 pixels, but the data have 12 x 10.*resize=true"):
        load_generator(settings, images_of(size=(12, 10)))
    with pytest.raises(DataError, match="draws RGB images, but the data are grey"):
        load_generator(settings, images_of(channels=1))
    resizing = settings.model_copy(update={"resize": True})
    generator = load_generator(resizing, images_of(size=(12, 10)))
    assert generator.generate(np.array([0, 1]), seed=0).shape == (2, 3, 12, 10)


@pytest.mark.parametrize("settings", ["diffusion", "folder"], indirect=True)
def test_a_class_that_a_generator_does_not_know_is_refused(settings: GeneratorSettings) -> None:
    with pytest.raises(DataError, match=r"knows no class 'bird' of the data \(it knows cat, dog\)"):
        load_generator(settings, images_of(("cat", "bird")))


def test_a_class_without_a_prompt_is_refused(text_pipeline: Path, class_pipeline: Path) -> None:
    def refused(path: Path, classes: tuple[str, ...], **prompts: str) -> str:
        settings = GeneratorSettings(source="diffusers", path=str(path), prompts=prompts)
        with pytest.raises(DataError) as error:
            load_generator(settings, images_of(classes))
        return str(error.value)

    assert "class 'dog' has no prompt" in refused(text_pipeline, CLASSES, cat="a cat")
    assert "class '3' has no prompt (its name is a number" in refused(text_pipeline, ("2a", "3"))
    assert "class 'cat' has no prompt" in refused(class_pipeline, CLASSES)
    assert "no class called 'lion'" in refused(class_pipeline, CLASSES, cat="lion")


def test_what_a_prompt_says_is_what_is_drawn(text_pipeline: Path, class_pipeline: Path) -> None:
    def drawn(path: Path, **settings: object) -> Tensor:
        chosen = GeneratorSettings.model_validate(
            {"source": "diffusers", "path": str(path), "steps": 2, "guidance": 3.0, **settings}
        )
        return load_generator(chosen, images_of()).generate(np.array([0, 1]), seed=0)

    plain = drawn(text_pipeline)
    named = drawn(text_pipeline, prompts={"cat": "a photo of a cat", "dog": "a wolf"})
    assert torch.equal(named[0], plain[0])
    assert not torch.equal(named[1], plain[1])
    assert not torch.equal(drawn(text_pipeline, template="{} in the rain")[0], plain[0])

    by_name = drawn(class_pipeline, prompts={"cat": "tabby"})
    assert torch.equal(drawn(class_pipeline, prompts={"cat": "0", "dog": "7"}), by_name)
    assert not torch.equal(drawn(class_pipeline, prompts={"cat": "7"})[0], by_name[0])


def test_pickled_weights_are_not_read(tmp_path: Path, class_pipeline: Path) -> None:
    from diffusers import DiTPipeline

    pipeline = DiTPipeline.from_pretrained(class_pipeline)
    pipeline.save_pretrained(tmp_path, safe_serialization=False)
    settings = GeneratorSettings(
        source="diffusers", path=str(tmp_path), prompts={"cat": "0", "dog": "7"}
    )
    with pytest.raises(DataError, match="with safetensors weights"):
        load_generator(settings, images_of())


def test_images_generated_earlier_come_once_each_before_they_repeat(image_folder: Path) -> None:
    settings = GeneratorSettings(source="folder", path=str(image_folder))
    generator = load_generator(settings, images_of())
    shades = generator.generate(np.array([0] * 10 + [1] * 3), seed=0)[:, 0, 0, 0].tolist()
    assert sorted(shades[:5]) == sorted(shades[5:10]) == [0, 1, 2, 3, 4]
    assert sorted(shades[10:]) == [100, 101, 102]


@pytest.mark.parametrize("damage", ["missing", "cut short", "other weights", "not JSON"])
def test_a_damaged_generator_is_one_sentence(
    tmp_path: Path, diffusion_folder: Path, damage: str
) -> None:
    model, unet = diffusion.load(diffusion_folder)
    diffusion.save(tmp_path, model, unet.state_dict())
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "cut short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "other weights":
        described = json.loads((tmp_path / "generator.json").read_text())
        (tmp_path / "generator.json").write_text(json.dumps({**described, "widths": [16, 16]}))
    else:
        (tmp_path / "generator.json").write_text("{")
    settings = GeneratorSettings(source="diffusion", path=str(tmp_path))
    with pytest.raises(DataError, match=f"{tmp_path} holds") as error:
        load_generator(settings, images_of())
    assert "\n" not in str(error.value)


def test_texts_have_no_generator(diffusion_folder: Path) -> None:
    texts = Dataset(["one", "two"], np.array([0, 1]), CLASSES)
    with pytest.raises(DataError, match="the data are texts"):
        load_generator(GeneratorSettings(source="diffusion", path=str(diffusion_folder)), texts)


class Oracle(nn.Module):
    """Knows the image of each class, and predicts the velocity that leads there exactly."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = nn.Parameter(images)
        self.asked: list[Tensor] = []

    def forward(self, noisy: Tensor, level: Tensor, class_labels: Tensor) -> SimpleNamespace:
        self.asked.append(class_labels)
        share = diffusion.schedule().alphas_cumprod[level]
        clean = self.images[class_labels]
        noise = (noisy - share.sqrt() * clean) / (1 - share).sqrt()
        return SimpleNamespace(sample=share.sqrt() * noise - (1 - share).sqrt() * clean)


@given(steps=st.integers(2, 30), seed=st.integers(0, 9))
def test_sampling_arrives_at_the_image_that_the_model_predicts(steps: int, seed: int) -> None:
    model = Diffusion(CLASSES, (4, 4), 1, fold=2)
    wanted = torch.randint(0, 256, (3, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
    oracle = Oracle(diffusion.fold_pixels(wanted, 2))
    labels = torch.tensor([1, 0, 1])
    drawn = diffusion.draw(oracle, model, labels, torch.randn(3, *model.folded), steps, 1.0)
    assert (drawn.int() - wanted[labels].int()).abs().max() <= 1
    assert all(torch.equal(asked, labels) for asked in oracle.asked)  # once a step, unguided


def test_guidance_goes_beyond_the_labelled_image_away_from_the_unlabelled() -> None:
    model = Diffusion(CLASSES, (4, 4), 1)
    shades = torch.tensor([0.2, 0.0, 0.1]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    oracle = Oracle(shades.clone())
    noise = torch.randn(2, *model.folded, generator=torch.Generator().manual_seed(0))
    drawn = diffusion.draw(oracle, model, torch.tensor([0, 1]), noise, 20, guidance=2.0)
    # 0.1 + 2 (0.2 - 0.1) = 0.3 and 0.1 + 2 (0 - 0.1) = -0.1, in levels of 127.5.
    assert (drawn[0] - 127.5 * 1.3).abs().max() <= 1
    assert (drawn[1] - 127.5 * 0.9).abs().max() <= 1


@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 3]))
def test_folding_loses_nothing(fold: int, channels: int) -> None:
    images = torch.randint(0, 256, (2, channels, 8, 12)).to(torch.uint8)
    folded = diffusion.fold_pixels(images, fold)
    assert folded.shape == (2, channels * fold**2, 8 // fold, 12 // fold)
    assert torch.equal(diffusion.unfold_pixels(folded, fold), images)


def test_images_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(DataError, match="sides are multiples of 4"):
        diffusion.build(Diffusion(CLASSES, (10, 8), 1, fold=2, widths=(8, 8)))


def test_the_bundled_generator_is_small_and_draws_what_it_is_asked_for() -> None:
    import importlib.resources

    folder = importlib.resources.files("cutlayer.assets") / "demo-generator"
    with importlib.resources.as_file(folder) as path:
        assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 4e6
    train, _ = load(Data(), 0)
    assert isinstance(train.inputs, Tensor)
    labels = np.repeat(np.arange(10), 4)
    generator = load_generator(GeneratorSettings(steps=8), train)
    drawn = generator.generate(labels, seed=0).flatten(1).float()
    real = train.inputs.flatten(1).float()
    # By its 5 nearest real images, an image is of the class asked for; at random 1 of 10 is.
    near = torch.cdist(drawn, real).topk(5, largest=False).indices
    votes = torch.from_numpy(train.labels)[near].mode(dim=1).values.numpy()
    assert (votes == labels).mean() > 0.6


def test_the_settings_say_what_is_missing() -> None:
    with pytest.raises(ValueError, match="needs a path"):
        GeneratorSettings(source="diffusion")
    with pytest.raises(ValueError, match="which reads none"):
        GeneratorSettings(path="somewhere")
    with pytest.raises(ValueError, match=r"must hold \{\} once"):
        GeneratorSettings(source="diffusers", path="x", template="a cat")
