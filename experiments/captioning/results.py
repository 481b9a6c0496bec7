"""What a trained captioner writes of images that it has not seen: figures, captions, plots."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.captioning.data import Data, Part
from experiments.captioning.metrics import best_constant, people
from experiments.captioning.model import CaptioningModel
from experiments.captioning.pictures import attention_picture, captions_picture, spread
from experiments.captioning.scenes import where_it_looks
from experiments.captioning.training import Train
from experiments.captioning.writing import Caption, Writer, described, judge, write_captions
from experiments.harness.fit import Fitted, parameters, report
from experiments.harness.progress import counted
from experiments.harness.reports import part
from jaxrnn.training.processes import shared

SHOWN = 8  # captions printed at the end of training


def captioned(
    config: Train, data: Data, model: CaptioningModel, params: Any
) -> tuple[dict[str, Any], list[Caption]]:
    """Figures on images that training has not seen, and their captions; none where that fails."""
    writer, test = Writer(model, params, data.tokenizer, config.max_length), data.test
    how: Any = {"beam": config.beam, "length_penalty": config.length_penalty, "share": shared}
    with (
        part("the captions"),
        counted(f"captioning {len(test.inputs):,} {data.test_name} images") as on_batch,
    ):
        return judge(writer, test, texts_of(data.train), **how, on_batch=on_batch)
    return {}, []


def texts_of(part: Part) -> list[str]:
    """All captions of a part."""
    return [caption for of in part.captioned.captions for caption in of]


def finish(fitted: Fitted, config: Train, data: Data, model: CaptioningModel) -> dict[str, Any]:
    """The figures of the best checkpoint, captions, and where it looked."""
    test, name, training = data.test, data.test_name, texts_of(data.train)
    figures, found = fitted.decoded
    if found:
        with part("the file of captions"):
            write_captions(fitted.out / f"{name}_captions.tsv", test, found)
    for picture, references, caption in list(zip(*test.captioned, found, strict=False))[:SHOWN]:
        print(f"{picture.name}\n    {caption.text}\n    reference: {references[0]}")
    print("-" * 79)
    for how, of in figures.items():
        print(f"{name}, {how}: {described(of)}")
    summary = {f"{name}_{how}": of for how, of in figures.items()}
    if min(map(len, test.captioned.captions)) > 1:
        with part("what people reach"):
            summary |= beside_people(name, test.captioned.captions, training)
    if config.data == "scenes" and config.attention != "none":
        with part("where it looks"):
            writer = Writer(model, fitted.params, data.tokenizer, config.max_length)
            summary["attention"] = where_it_looks(writer, test)
            share = summary["attention"]["share"]
            print(f"most of the attention lies on a shape while its word is written: {share:.1%}")
    report(
        fitted,
        summary,
        title=f"{config.cell}, attention {config.attention}, on {Path(config.data).name}",
        packages=("tokenizers", "sacrebleu", "grain"),
    )
    if found:
        draw(fitted.out, data, found)
    return summary | {"parameters": parameters(fitted.params), "train_seconds": fitted.seconds}


def beside_people(
    name: str, references: Sequence[Sequence[str]], training: Sequence[str]
) -> dict[str, Any]:
    """Figures of one person's captions against the others', and of the best one caption for all images."""
    found = {"people": people(references), "best_constant": best_constant(references, training)}
    for who, of in found.items():
        print(
            f"{name}, {who.replace('_', ' ')}: BLEU-1 to 4 "
            + " / ".join(f"{of[f'bleu_{n}']:.1f}" for n in range(1, 5))
            + f", CIDEr-D {of['cider_d']:.3f}"
        )
    return {f"{name}_{who}": of for who, of in found.items()}


def draw(out: Path, data: Data, found: Sequence[Caption]) -> None:
    """Some images with their captions; and where the model looked, if it has attention."""
    captioned = data.test.captioned
    with part("captions.png"):
        captions_picture(out / "captions.png", captioned, found)
    if found[0].weights is not None:
        with part("attention.png"):
            shown = [(captioned.pictures[i], found[i]) for i in spread(len(found))]
            attention_picture(out / "attention.png", shown)
