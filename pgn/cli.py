"""The command line: each subcommand parses, calls one function of the library, prints, and returns a code.

Exit codes: 0 done, 1 could not, 2 asked wrongly. Answers go to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from pgn import __version__
from pgn.errors import PgnError, UsageError
from pgn.settings import load_settings

TRAIN, SERVE, STORE = "Train", "Serve", "Model store"

app = typer.Typer(
    name="pgn",
    help="Prompt generation networks for frozen vision transformers: train, pack, serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
backbone_app = typer.Typer(help="Frozen backbones: list, fetch.", no_args_is_help=True)
app.add_typer(backbone_app, name="backbone", rich_help_panel=STORE)

Store = Annotated[Path | None, typer.Option("--store", help="Folder of the model store (PGN_STORE; model_store).")]
TorchserveConfig = Annotated[
    Path | None, typer.Option(help="TorchServe's settings (PGN_TORCHSERVE_CONFIG; config.properties).")
]
ArchivesFolder = Annotated[Path | None, typer.Option(help="Built by `pgn archive`; by default built anew.")]


@app.command(rich_help_panel=TRAIN)
def train(
    dataset: Annotated[
        list[str], typer.Option(help="digits, fashion-mnist, folder:DIR or tar:FILE; several times for a union.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command resumes it.")],
    method: Annotated[Literal["pgn", "iip"], typer.Option(help="PGN, or input-independent prompts.")] = "pgn",
    name: Annotated[str | None, typer.Option(help="Name to serve it under; by default the data set's.")] = None,
    backbone: Annotated[Path | None, typer.Option(help="Folder of the frozen ViT.")] = None,
    head: Annotated[
        Literal["linear", "text", "prototypes"] | None,
        typer.Option(help="Trained linear head, or fixed class embeddings: CLIP's texts or class means."),
    ] = None,
    template: Annotated[str | None, typer.Option(help="Class text for --head text, e.g. 'a photo of a {}'.")] = None,
    seed: int | None = None,
    num_prompts: Annotated[int | None, typer.Option(help="K, prompts an image.")] = None,
    library_size: Annotated[int | None, typer.Option(help="N, tokens in the library.")] = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    library_rate: Annotated[float | None, typer.Option(help="Learning rate of the library or the prompts.")] = None,
    encoder_rate: Annotated[float | None, typer.Option(help="Learning rate of the image encoder.")] = None,
    head_rate: Annotated[float | None, typer.Option(help="Learning rate of the linear head.")] = None,
    weight_decay: float | None = None,
    warmup: Annotated[float | None, typer.Option(help="Share of the steps in which the rates rise.")] = None,
    shift: Annotated[float | None, typer.Option(help="Largest random shift, as a share of the side.")] = None,
    keep: Annotated[float | None, typer.Option(help="Share of an image's patches that a step sees.")] = None,
    flip: Annotated[bool | None, typer.Option(help="Mirror at random; by default if the set allows it.")] = None,
    limit: Annotated[int | None, typer.Option(help="Most training images of a class.")] = None,
    limit_val: Annotated[int | None, typer.Option(help="Most validation images of a class.")] = None,
    encoder_width: Annotated[int | None, typer.Option(help="Channels of the encoder's first layer.")] = None,
    input_size: Annotated[int | None, typer.Option(help="Side in pixels of what the encoder sees.")] = None,
    bf16: Annotated[bool | None, typer.Option(help="Frozen ViT in bfloat16 while training.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where named data sets lie or are put.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where features of the plain ViT are kept.")] = None,
) -> None:
    """Train a PGN on a data set and write its bundle. What is not given follows from the number of images."""
    given = dict(locals())
    from training.config import plan
    from training.loop import train as run

    print(run(plan(given.pop("dataset"), given.pop("out"), **given)))


@app.command(rich_help_panel=TRAIN)
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A bundle file.")],
    dataset: Annotated[
        list[str] | None, typer.Option(help="Images to ask; by default those it was trained on.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results; by default beside the bundle.")] = None,
    backbone: Annotated[Path | None, typer.Option(help="Folder of the frozen ViT, if it has moved.")] = None,
    split: Annotated[Literal["test", "val", "train"], typer.Option(help="Which images.")] = "test",
    iip: Annotated[Path | None, typer.Option(help="A bundle of input-independent prompts to stand beside it.")] = None,
    train_iip: Annotated[bool, typer.Option("--train-iip", help="Train those now, with equal epochs.")] = False,
) -> None:
    """Top-1, top-5 and confusion matrix of a bundle, beside a linear probe on the same frozen features."""
    from training.evaluate import evaluate as run

    folder = out or bundle.parent / "evaluation"
    specs = tuple(dataset) if dataset else None
    report = run(bundle, out=folder, backbone=backbone, dataset=specs, split=split, iip=iip, train_iip=train_iip)
    print(report.table())
    print(f"confusion matrix: {folder / 'confusion.png'}")


@app.command(rich_help_panel=SERVE)
def archive(
    out: Annotated[Path, typer.Option(help="Where the archives go.")] = Path("model_store/archives"),
) -> None:
    """Build TorchServe's archives: pgn.mar, vit.mar and the workflow pgn.war."""
    from pgn.archive import build_archives

    archives = build_archives(out)
    for path in (*archives.models, archives.workflow):
        print(path)


@app.command(rich_help_panel=SERVE)
def serve(
    store: Store = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (PGN_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one (PGN_PORT).")] = None,
    torchserve_config: TorchserveConfig = None,
    archives: ArchivesFolder = None,
) -> None:
    """Serve the model store: TorchServe with both stages, and the gateway."""
    from pgn.archive import Archives
    from pgn.serve.supervisor import serve as run

    settings = load_settings(store=store, host=host, port=port, torchserve_config=torchserve_config)
    raise typer.Exit(run(settings, archives=Archives(archives) if archives else None))


@app.command(rich_help_panel=SERVE)
def torchserve(
    store: Store = None,
    torchserve_config: TorchserveConfig = None,
    archives: ArchivesFolder = None,
) -> None:
    """Run TorchServe alone, for a container of its own; a gateway beside it registers the workflow."""
    from pgn.archive import Archives
    from pgn.serve.supervisor import serve_stages

    settings = load_settings(store=store, torchserve_config=torchserve_config)
    raise typer.Exit(serve_stages(settings, archives=Archives(archives) if archives else None))


@app.command(rich_help_panel=SERVE)
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    dataset: Annotated[str, typer.Option(help="Data set whose PGN answers; several with commas.")],
    url: Annotated[str, typer.Option(help="Where the gateway listens.")] = "http://127.0.0.1:8000",
    top_k: Annotated[int, typer.Option(min=1, help="Classes to print.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Ask a running service what is in the images."""
    from pgn.client import Client

    with Client(url) as client:
        for image in images:
            for result in client.predict_many(image, dataset.split(","), top_k=top_k):
                if as_json:
                    labels = [{"label": each.label, "probability": each.probability} for each in result.predictions]
                    print(json.dumps({"image": str(image), "dataset": result.dataset, "predictions": labels}))
                else:
                    line = "  ".join(f"{each.label} {each.probability:.1%}" for each in result.predictions)
                    print(f"{image}  {result.dataset}: {line}")


@app.command(rich_help_panel=STORE)
def add(
    bundles: Annotated[list[Path], typer.Argument(help="Bundle files.")],
    store: Store = None,
) -> None:
    """Verify bundles, copy them into the model store and serve them."""
    from pgn.store.local import LocalStore

    for path in bundles:
        bundle, index = LocalStore(load_settings(store=store).store).add(path)
        print(f"{bundle.manifest.dataset} {bundle.version} is served from revision {index.revision} on")


@app.command("list", rich_help_panel=STORE)
def list_datasets(store: Store = None) -> None:
    """List what the model store serves, and in what state."""
    from pgn.bundle import read_bundle
    from pgn.index import read_index
    from pgn.store.local import LocalStore

    root = load_settings(store=store).store
    index = read_index(root)
    print(f"revision {index.revision}, backbone {index.backbone[:16]}")
    for name, entry in sorted(index.datasets.items()):
        for version in entry.versions:
            path = LocalStore(root).bundle_path(name, version.digest)
            try:
                manifest = read_bundle(path, backbone=index.backbone).manifest
                state = f"{len(manifest.classes)} classes, {path.stat().st_size / 1e6:.1f} MB"
            except PgnError as error:
                state = f"refused: {error}"
            print(f"{name}  {version.digest[:16]}  {state}")


@app.command("import-reference", rich_help_panel=STORE)
def import_reference(
    checkpoint: Annotated[Path, typer.Argument(help="A generator of the paper's authors, .pt or .safetensors.")],
    out: Annotated[Path, typer.Option(help="The generator under our names, as .safetensors.")],
) -> None:
    """Read a checkpoint of the paper's authors and write the generator under this project's tensor names."""
    from safetensors.torch import save_file

    from pgn.method.reference import load_reference

    generator = load_reference(checkpoint)
    save_file(generator.state_dict(), out)
    spec, count = generator.spec, sum(parameter.numel() for parameter in generator.parameters())
    print(f"{out}: K {spec.num_prompts}, N {spec.library_size}, D {spec.embed_dim}, {count:,} parameters")


@backbone_app.command("list")
def list_backbones(store: Store = None) -> None:
    """List the backbones in the model store."""
    from pgn.store.local import LocalStore

    for folder, (spec, digest) in LocalStore(load_settings(store=store).store).backbones().items():
        print(f"{folder}  {digest[:16]}  {spec.library}, {spec.preprocess.size} px, {spec.activation}")


@backbone_app.command("fetch")
def fetch_backbone(
    model: Annotated[str, typer.Argument(help="A ViT of open_clip, e.g. ViT-B-32-quickgelu.")],
    out: Annotated[Path, typer.Option(help="Backbone folder to make.")],
    pretrained: Annotated[str, typer.Option(help="A tag of open_clip's hub, or a weights file.")] = "openai",
    activation: Annotated[
        Literal["gelu", "quick_gelu"] | None, typer.Option(help="What a weights file was trained with.")
    ] = None,
) -> None:
    """Turn a CLIP model of open_clip into a backbone folder."""
    from training.backbones.clip import fetch_clip

    print(f"{out}  {fetch_clip(model, pretrained, out, activation=activation)[:16]}")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pgn {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Entry point of the console script: user errors become one line and an exit code."""
    try:
        app(standalone_mode=True)
    except PgnError as error:
        print(f"pgn: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    sys.exit(0)
