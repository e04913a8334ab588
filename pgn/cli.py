"""The command line: each subcommand parses, calls one function of the library, prints, and returns a code.

Exit codes: 0 done, 1 could not, 2 asked wrongly. Answers go to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from pgn import __version__
from pgn.backbone_spec import BackboneSpec
from pgn.errors import PgnError, UsageError
from pgn.settings import load_settings

_MistypedError: Any = typer.BadParameter.__mro__[1]  # Click's UsageError, wherever this version of Typer has its Click
TRAIN, SERVE, STORE = "Train", "Serve", "Model store"
RUN, DATA, METHOD = "The run", "The images", "The method"
LEARNING, RIVALS = "How it learns", "Other methods' own options"

app = typer.Typer(
    name="pgn",
    help="Prompt generation networks for frozen vision transformers: train, pack, serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
backbone_app = typer.Typer(help="Frozen backbones: list, fetch, quantise, publish.", no_args_is_help=True)
app.add_typer(backbone_app, name="backbone", rich_help_panel=STORE)
data_app = typer.Typer(help="Data sets: list, check.", no_args_is_help=True)
app.add_typer(data_app, name="data", rich_help_panel=TRAIN)
key_app = typer.Typer(help="API keys: make, list, revoke.", no_args_is_help=True)
app.add_typer(key_app, name="key", rich_help_panel=SERVE)

Store = Annotated[Path | None, typer.Option("--store", help="Folder of the model store (PGN_STORE; model_store).")]
Remote = Annotated[
    str | None, typer.Option("--remote", help="s3://bucket/prefix that is the truth, not the folder (PGN_REMOTE).")
]
TorchserveConfig = Annotated[
    Path | None, typer.Option(help="TorchServe's settings (PGN_TORCHSERVE_CONFIG; config.properties).")
]
KeyFile = Annotated[Path | None, typer.Option("--file", help="File of API keys (PGN_KEYS).")]
ArchivesFolder = Annotated[Path | None, typer.Option(help="Built by `pgn archive`; by default built anew.")]


@app.command(rich_help_panel=TRAIN)
def train(
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of `pgn data list`, folder:DIR, tar:FILE or csv:FILE; several for a union.", rich_help_panel=DATA
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; the same command resumes it.", rich_help_panel=RUN)
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of options; flags go before it.", rich_help_panel=RUN)
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Options that come with the project: paper or small.", rich_help_panel=RUN)
    ] = None,
    backbone: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the frozen ViT.", show_default="model_store/backbones/pgn-vit-128", rich_help_panel=RUN
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of all that is drawn at random.", show_default="0", rich_help_panel=RUN)
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Where features of the plain ViT are kept.", show_default=".cache/features", rich_help_panel=RUN
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write TensorBoard's files.", rich_help_panel=RUN)
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Serve Prometheus metrics at all addresses; 0 takes a free port.",
            rich_help_panel=RUN,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name to serve it under; by default the data set's.", rich_help_panel=DATA)
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Where named data sets lie or are put.", show_default="data", rich_help_panel=DATA),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Most training images of a class.", rich_help_panel=DATA)] = None,
    limit_val: Annotated[
        int | None, typer.Option(help="Most validation images of a class.", rich_help_panel=DATA)
    ] = None,
    fraction: Annotated[
        float | None, typer.Option(help="Share of the training images of each class.", rich_help_panel=DATA)
    ] = None,
    flip: Annotated[
        bool | None, typer.Option(help="Mirror at random; by default if the set allows it.", rich_help_panel=DATA)
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Class text for --head text, e.g. 'a photo of a {}'.", rich_help_panel=DATA)
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Or zero-shot, linear, full, encoder, iip, vp, vpt-shallow, vpt-deep, vapt, to compare with.",
            show_default="pgn",
            rich_help_panel=METHOD,
        ),
    ] = None,
    head: Annotated[
        Literal["linear", "text", "prototypes"] | None,
        typer.Option(help="Linear head, or class embeddings: CLIP's texts or class means.", rich_help_panel=METHOD),
    ] = None,
    train_head: Annotated[
        bool | None,
        typer.Option(
            "--train-head/--fixed-head",
            help="By default a linear head learns, class embeddings stay.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    num_prompts: Annotated[
        int | None, typer.Option(help="K, prompts an image.", show_default="8", rich_help_panel=METHOD)
    ] = None,
    library_size: Annotated[
        int | None, typer.Option(help="N, tokens in the library.", show_default="64", rich_help_panel=METHOD)
    ] = None,
    start_from: Annotated[
        list[Path] | None,
        typer.Option(
            help="Bundle or run to go on from; several times, the later over the earlier.", rich_help_panel=METHOD
        ),
    ] = None,
    encoder: Annotated[
        Literal["resnet10", "resnet18", "mlp"] | None,
        typer.Option(help="The generator's image encoder.", show_default="resnet10", rich_help_panel=METHOD),
    ] = None,
    encoder_width: Annotated[
        int | None,
        typer.Option(help="Channels of the encoder's first layer.", show_default="16", rich_help_panel=METHOD),
    ] = None,
    input_size: Annotated[
        int | None,
        typer.Option(help="Side in pixels of what the encoder sees.", show_default="64", rich_help_panel=METHOD),
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(
            help="Side in pixels of the centre that --encoder mlp sees.", show_default="32", rich_help_panel=METHOD
        ),
    ] = None,
    hidden: Annotated[
        int | None,
        typer.Option(
            help="Hidden width of --encoder mlp and --projection mlp.", show_default="256", rich_help_panel=METHOD
        ),
    ] = None,
    projection: Annotated[
        Literal["linear", "mlp"] | None,
        typer.Option(help="From the encoder's features to the mixture.", show_default="linear", rich_help_panel=METHOD),
    ] = None,
    library: Annotated[
        Literal["latent", "rgb", "none"] | None,
        typer.Option(
            help="Tokens, patches of pixels, or no library at all.", show_default="latent", rich_help_panel=METHOD
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the training images.", show_default="by number of images", rich_help_panel=LEARNING
        ),
    ] = None,
    encoder_first: Annotated[
        int | None,
        typer.Option(
            help="pgn: epochs of its encoder alone, before prompts.", show_default="0", rich_help_panel=LEARNING
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images of a micro-batch, by default of a step.", show_default="32", rich_help_panel=LEARNING
        ),
    ] = None,
    library_rate: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of the library or the prompts.", show_default="0.01", rich_help_panel=LEARNING
        ),
    ] = None,
    encoder_rate: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of the image encoder; the default follows --method and --encoder-first.",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    head_rate: Annotated[
        float | None,
        typer.Option(help="Learning rate of the linear head.", show_default="0.001", rich_help_panel=LEARNING),
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Micro-batches of a step; by default 1 a process.", rich_help_panel=LEARNING)
    ] = None,
    optimizer: Annotated[
        Literal["adamw", "sgd"] | None,
        typer.Option(help="AdamW, or SGD with momentum 0.9.", show_default="adamw", rich_help_panel=LEARNING),
    ] = None,
    schedule: Annotated[
        Literal["cosine", "paper"] | None,
        typer.Option(
            help="A rate for each step, or the paper's for each epoch.", show_default="cosine", rich_help_panel=LEARNING
        ),
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(help="Of all that learns but tokens and prompts.", show_default="0.01", rich_help_panel=LEARNING),
    ] = None,
    clip_norm: Annotated[
        float | None, typer.Option(help="Longest gradient; longer ones are scaled down.", rich_help_panel=LEARNING)
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without better validation.", rich_help_panel=LEARNING)
    ] = None,
    augment: Annotated[
        Literal["small", "paper", "none"] | None,
        typer.Option(
            help="Shift and flip, the paper's colours, or nothing.", show_default="small", rich_help_panel=LEARNING
        ),
    ] = None,
    warmup: Annotated[
        float | None,
        typer.Option(help="Share of the steps in which the rates rise.", show_default="0.1", rich_help_panel=LEARNING),
    ] = None,
    shift: Annotated[
        float | None,
        typer.Option(
            help="Largest random shift, as a share of the side.", show_default="0.03", rich_help_panel=LEARNING
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            help="Share of an image's patches that a step sees.", show_default="1.0", rich_help_panel=LEARNING
        ),
    ] = None,
    bf16: Annotated[
        bool | None, typer.Option(help="Frozen ViT in bfloat16 while training.", rich_help_panel=LEARNING)
    ] = None,
    compile: Annotated[
        bool | None, typer.Option(help="Have torch compile the frozen ViT's blocks.", rich_help_panel=LEARNING)
    ] = None,
    frame: Annotated[int | None, typer.Option(help="vp: width of the frame in pixels.", rich_help_panel=RIVALS)] = None,
    frame_std: Annotated[
        float | None,
        typer.Option(help="vp: standard deviation of its start.", show_default="0.0", rich_help_panel=RIVALS),
    ] = None,
    prompt_dropout: Annotated[
        float | None,
        typer.Option(help="vpt-deep, vapt: share dropped in training.", show_default="0.1", rich_help_panel=RIVALS),
    ] = None,
    vapt_kernel: Annotated[
        int | None,
        typer.Option(help="vapt: side of its convolution in patches.", show_default="2", rich_help_panel=RIVALS),
    ] = None,
    vapt_rank: Annotated[
        int | None, typer.Option(help="vapt: width of its bottleneck.", show_default="8", rich_help_panel=RIVALS)
    ] = None,
    tower_rate: Annotated[
        float | None,
        typer.Option(help="full: learning rate of the ViT's weights.", show_default="5e-05", rich_help_panel=RIVALS),
    ] = None,
) -> None:
    """Train a PGN, or a method to compare it with, and write its result. Defaults follow from the number of images."""
    given = dict(locals())
    watched = {name: given.pop(name) for name in ("tensorboard", "metrics_port")}
    from training.config import is_first_process, plan
    from training.config_file import gather_options, said_options
    from training.loop import train as run
    from training.methods import without_effect
    from training.watch import say

    file, recipe = given.pop("config"), given.pop("recipe")
    planned = plan(**gather_options(given, file=file, recipe=recipe))
    for line in without_effect(planned, said_options(given, file)):
        say(line, shown=is_first_process())
    path = run(planned, **watched)
    if is_first_process():
        print(path)


@app.command(rich_help_panel=TRAIN)
def evaluate(
    trained: Annotated[Path, typer.Argument(help="A bundle file, or the folder of a finished run.")],
    dataset: Annotated[
        list[str] | None, typer.Option(help="Images to ask; by default those it was trained on.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results; by default beside the bundle.")] = None,
    backbone: Annotated[Path | None, typer.Option(help="Folder of the frozen ViT, if it has moved.")] = None,
    split: Annotated[Literal["test", "val", "train"], typer.Option(help="Which images.")] = "test",
    iip: Annotated[Path | None, typer.Option(help="A bundle of input-independent prompts to stand beside it.")] = None,
    train_iip: Annotated[
        bool, typer.Option("--train-iip", help="Train those now, with equal epochs; not for a bundle of them.")
    ] = False,
) -> None:
    """Top-1, top-5 and confusion matrix of a bundle or run, beside a linear probe on the same frozen features."""
    from training.evaluate import evaluate as run

    folder = out or (trained if trained.is_dir() else trained.parent) / "evaluation"
    specs = tuple(dataset) if dataset else None
    report = run(trained, out=folder, backbone=backbone, dataset=specs, split=split, iip=iip, train_iip=train_iip)
    print(report.table())
    print(f"confusion matrix: {folder / report.picture_file}")


@app.command(rich_help_panel=TRAIN)
def compare(
    grid: Annotated[str, typer.Argument(help="A TOML file (docs/compare.md), or the name of a shipped grid.")],
    out: Annotated[Path | None, typer.Option(help="Folder of cells and tables; by default runs/<name>.")] = None,
    data_dir: Annotated[
        Path, typer.Option(envvar="PGN_DATA_DIR", help="Stands for {data} in specs; holds named sets.")
    ] = Path("data"),
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Stop then; the same command goes on.")] = None,
    only: Annotated[str | None, typer.Option(metavar="N/M", help="Run the N-th of M parts of the cells.")] = None,
    cell: Annotated[
        int | None, typer.Option(min=0, envvar="JOB_COMPLETION_INDEX", help="Run this cell alone, counted from 0.")
    ] = None,
    list_cells: Annotated[bool, typer.Option("--list", help="Print the cells and how far they are; run none.")] = False,
    gather: Annotated[bool, typer.Option("--gather", help="Only write the tables of what is finished.")] = False,
) -> None:
    """Run methods x sets x seeds from one TOML file and write their table, CSV files and plot."""
    from training.compare import command

    if list_cells:
        print(command.list_cells(grid, out))
    else:
        print(command.compare(grid, out, data_dir, minutes=minutes, only=only, index=cell, run=not gather))


@app.command(rich_help_panel=TRAIN)
def report(
    paths: Annotated[list[Path], typer.Argument(help="Folders of finished runs, and bundle files.")],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    backbone: Annotated[Path | None, typer.Option(help="Folder of the frozen ViT, if it has moved.")] = None,
    split: Annotated[Literal["test", "val", "train"], typer.Option(help="Images to look into.")] = "test",
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the images, if they have moved.")] = None,
    title: Annotated[str | None, typer.Option(help="Of the page; by default the names of the data sets.")] = None,
) -> None:
    """One self-contained HTML page: results, curves, mistakes, calibration, prompts and attention."""
    from training.report.page import write_page

    write_page(paths, out, backbone=backbone, split=split, data_dir=data_dir, title=title)
    print(out)


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
    key: Annotated[str | None, typer.Option(help="API key (PGN_API_KEY).", show_default=False)] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Classes to print.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Ask a running service what is in the images."""
    from pgn.client import Client

    with Client(url, key=key) as client:
        answers = client.predict_all(images, dataset.split(","), top_k=top_k)
        for image, results in zip(images, answers, strict=True):
            for result in results:
                if as_json:
                    labels = [{"label": each.label, "probability": each.probability} for each in result]
                    fields = {"dataset": result.dataset, "predictions": labels, "unknown": result.unknown}
                    print(json.dumps({"image": str(image), **fields}))
                else:
                    line = "  ".join(f"{each.label} {each.probability:.1%}" for each in result)
                    print(f"{image}  {result.dataset}: {'unknown, perhaps ' if result.unknown else ''}{line}")


@app.command(rich_help_panel=SERVE)
def invert(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The prompted image: .png in 8 bits, or .npy in floating point; by default photo.prompted.png beside "
            "photo.jpg."
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set whose PGN writes the prompts.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="A bundle file, in place of a served data set.")] = None,
    store: Store = None,
) -> None:
    """Write the prompts of an image into the image itself, as rows of pixels below it; the frozen ViT reads them."""
    from pgn.bundle import read_bundle
    from pgn.index import read_index
    from pgn.method.backbone import load_backbone
    from pgn.method.predictor import Predictor
    from pgn.method.prompted_image import write_prompted
    from pgn.store.local import LocalStore

    if (dataset is None) == (bundle is None):
        raise UsageError("give one of --dataset and --bundle")
    found = LocalStore(load_settings(store=store).store)
    if bundle is not None:
        opened = read_bundle(bundle)
    else:
        index = read_index(found.root)
        opened = found.read(str(dataset), index.main_version(str(dataset)), backbone=index.backbone)
    backbone = load_backbone(found.backbone_folder(opened.manifest.backbone.digest))
    written = out or image.with_suffix(".prompted.png")
    for line in write_prompted(Predictor(backbone, opened), image, written).lines():
        print(line)


@app.command(rich_help_panel=STORE)
def add(
    bundles: Annotated[list[Path], typer.Argument(help="Bundle files; `<bundle>.sig` beside them is taken along.")],
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Part of the traffic; below 1 what is served now stays beside it.")
    ] = 1.0,
    store: Store = None,
    remote: Remote = None,
) -> None:
    """Verify bundles, put them into the model store and serve them."""
    from pgn.store.publish import open_publisher

    publisher = open_publisher(load_settings(store=store, remote=remote))
    for path in bundles:
        bundle, index = publisher.publish(path, share=share)
        print(f"{bundle.manifest.dataset} {bundle.version} is served from revision {index.revision} on")


@app.command(rich_help_panel=STORE)
def remove(
    dataset: Annotated[str, typer.Argument(help="Name of a served data set.")],
    store: Store = None,
    remote: Remote = None,
) -> None:
    """Serve a data set no more, and delete its bundles from the model store."""
    from pgn.store.publish import open_publisher

    index = open_publisher(load_settings(store=store, remote=remote)).remove(dataset)
    print(f"{dataset} is not served from revision {index.revision} on")


@app.command(rich_help_panel=STORE)
def rollback(
    dataset: Annotated[str, typer.Argument(help="Name of a served data set.")],
    store: Store = None,
    remote: Remote = None,
) -> None:
    """Take the newest version of a data set back: the others share its traffic, or the one before serves again."""
    from pgn.store.publish import open_publisher

    index = open_publisher(load_settings(store=store, remote=remote)).rollback(dataset)
    versions = ", ".join(f"{each.digest[:16]} ({each.share:.0%})" for each in index.datasets[dataset].versions)
    print(f"{dataset} is served by {versions} from revision {index.revision} on")


@app.command("list", rich_help_panel=STORE)
def list_datasets(store: Store = None, remote: Remote = None) -> None:
    """List what the model store serves, version by version, and in what state."""
    from pgn.store.listing import list_versions, table
    from pgn.store.publish import open_publisher

    index, rows = list_versions(open_publisher(load_settings(store=store, remote=remote)))
    print(f"revision {index.revision}, backbone {index.backbone[:16]}")
    print(table(rows))


@app.command(rich_help_panel=STORE)
def publish(
    bundles: Annotated[
        list[Path] | None, typer.Argument(help="Bundle files; `<bundle>.sig` beside them is taken along.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All that the model store's folder serves, with its shares.")
    ] = False,
    store: Store = None,
    remote: Remote = None,
) -> None:
    """Put bundles into the bucket and serve them everywhere; the bucket needs their backbone first."""
    from pgn.store.publish import publish_all
    from pgn.store.remote import open_remote

    if bool(bundles) == everything:
        raise UsageError("give bundle files, or --all")
    settings = load_settings(store=store, remote=remote)
    publisher = open_remote(settings)
    published = publish_all(settings.store, publisher) if everything else map(publisher.publish, bundles or ())
    for bundle, index in published:
        print(f"{bundle.manifest.dataset} {bundle.version} is served from revision {index.revision} on")


@app.command(rich_help_panel=STORE)
def sync(
    watch: Annotated[bool, typer.Option("--watch", help="Go on until SIGTERM, every PGN_SYNC_S seconds.")] = False,
    store: Store = None,
    remote: Remote = None,
) -> None:
    """Make the model store's folder say what the bucket says; 1 if something of it could not be had."""
    import signal
    import threading

    from pgn.store import sync as following

    settings = load_settings(store=store, remote=remote)
    if watch:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        following.watch(settings, stop)
        return
    state = following.sync_once(settings)
    print(f"{settings.store} serves revision {state.served_revision} of {settings.remote}")
    for failure in state.failures:
        print(f"{failure.dataset} {failure.digest[:16]} stays as it was: {failure.message}", file=sys.stderr)
    if state.failures:
        raise typer.Exit(1)


@app.command("sign", rich_help_panel=STORE)
def sign_bundle(
    bundles: Annotated[list[Path], typer.Argument(help="Bundle files.")],
    key: Annotated[Path, typer.Option(help="PEM of a private key on an elliptic curve, such as P-256.")],
) -> None:
    """Sign bundles in OpenSSF model-signing's format; the signature lies beside each as `<bundle>.sig`."""
    from pgn.store.signing import sign

    for path in bundles:
        print(sign(path, key))


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
def list_backbones(store: Store = None, remote: Remote = None) -> None:
    """List the backbones in the model store."""
    from pgn.store.local import LocalStore

    settings = load_settings(store=store, remote=remote)
    if settings.remote is None:
        for folder, (spec, digest) in LocalStore(settings.store).backbones().items():
            _print_backbone(str(folder), digest, spec)
        return
    from pgn.store.backbones import remote_backbones
    from pgn.store.remote import open_remote

    for digest, spec in remote_backbones(open_remote(settings).bucket).items():
        _print_backbone(spec.name, digest, spec)


def _print_backbone(where: str, digest: str, spec: BackboneSpec) -> None:
    print(f"{where}  {digest[:16]}  {spec.library}, {spec.preprocess.size} px, {spec.activation}")


@backbone_app.command("publish")
def publish_backbone(
    name: Annotated[str, typer.Argument(help="Name of a backbone of the model store, or its folder.")],
    store: Store = None,
    remote: Remote = None,
) -> None:
    """Put a backbone into the bucket; what broke off goes on where it was."""
    from pgn.store.backbones import publish_backbone as run
    from pgn.store.remote import open_remote

    settings = load_settings(store=store, remote=remote)
    inside = settings.store / "backbones" / name
    folder = inside if inside.is_dir() else Path(name)
    bucket = open_remote(settings).bucket
    with _bar(folder / "model.safetensors") as progress:
        digest, sent = run(bucket, folder, progress)
    print(f"{bucket.url(f'backbones/{digest}')}{'' if sent else ' is there already'}")


@backbone_app.command("fetch")
def fetch_backbone(
    model: Annotated[
        str, typer.Argument(help="A ViT of open_clip or timm: ViT-B-32-quickgelu, vit_small_patch16_224.dino.")
    ],
    out: Annotated[Path, typer.Option(help="Backbone folder to make.")],
    pretrained: Annotated[
        str | None, typer.Option(help="A weights file, or a tag of open_clip's hub; by default from the hub.")
    ] = None,
    activation: Annotated[
        Literal["gelu", "quick_gelu"] | None, typer.Option(help="What open_clip's weights file was trained with.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Another side in pixels than the model's own; timm only.")
    ] = None,
) -> None:
    """Turn a pretrained ViT of open_clip or timm into a backbone folder."""
    from training.backbones.fetch import fetch

    print(f"{out}  {fetch(model, pretrained, out, activation=activation, image_size=image_size)[:16]}")


@backbone_app.command("quantise")
def quantise_backbone(
    folder: Annotated[Path, typer.Argument(help="Backbone folder with float weights.")],
    out: Annotated[Path, typer.Option(help="Backbone folder to make.")],
) -> None:
    """Make a backbone folder whose linear layers are int8: a quarter of the memory, and a backbone of its own."""
    from training.backbones.quantise import quantise_folder

    print(f"{out}  {quantise_folder(folder, out)[:16]}")


@key_app.command("new")
def new_key(
    name: Annotated[str, typer.Argument(help="Whose it is; in logs and metrics.")],
    dataset: Annotated[list[str] | None, typer.Option(help="What it may ask, * for any letters; all.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It may change what is served.")] = False,
    rate: Annotated[float | None, typer.Option(help="Requests a second in the long run.")] = None,
    burst: Annotated[int | None, typer.Option(help="Requests at once after a pause; one second's.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests in flight.")] = None,
    expires: Annotated[datetime | None, typer.Option(help="Not valid from then on, in UTC.")] = None,
    file: KeyFile = None,
) -> None:
    """Make an API key: its hash goes into the file, the key itself is printed once."""
    from pgn.gateway import keys

    fields = {"datasets": dataset, "admin": admin or None, "rate": rate, "burst": burst, "concurrency": concurrency}
    print(keys.new_key(_key_file(file), name, **fields, expires=expires))


@key_app.command("list")
def list_keys(file: KeyFile = None) -> None:
    """List the API keys of the file and what they may."""
    from pgn.gateway import keys

    for key in keys.read_keys(_key_file(file)).values():
        print(key.summary())


@key_app.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(help="Of the key.")],
    file: KeyFile = None,
) -> None:
    """Take an API key out of the file; a running gateway refuses it at once."""
    from pgn.gateway import keys

    keys.revoke_key(_key_file(file), name)


def _key_file(given: Path | None) -> Path:
    path = given or load_settings().keys
    if path is None:
        raise UsageError("which file of API keys?", hint="give --file, or set PGN_KEYS")
    return path


@data_app.command("list")
def list_data(
    data_dir: Annotated[Path, typer.Option(help="Where named data sets lie or are put.")] = Path("data"),
) -> None:
    """List the public sets that --dataset takes by name: at hand, downloaded when named, or to be put there."""
    from training.data.named.tables import overview

    print(overview(data_dir))


@data_app.command("check")
def check_data(
    specs: Annotated[list[str], typer.Argument(help="Names, or folder:DIR, tar:FILE, csv:FILE.")],
    data_dir: Annotated[Path, typer.Option(help="Where named data sets lie or are put.")] = Path("data"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with everything.")] = False,
) -> None:
    """Count images by split and class, and name what cannot be read or is there twice.

    Several sets are compared with each other as well. 1 if splits share a picture, or a set cannot be trained on.
    """
    from training.data.check import check, compare

    checked = []
    for spec in specs:
        checked.append(check(spec, data_dir))
        report = checked[-1].report
        print(json.dumps(report.to_dict()) if as_json else report.table())
    across = compare(checked)
    if len(checked) > 1:
        print(json.dumps(across.to_dict()) if as_json else across.table())
    if across.crossing or any(each.report.shared or each.report.obstacles for each in checked):
        raise typer.Exit(1)


@contextmanager
def _bar(file: Path) -> Iterator[Callable[[int], None]]:
    """A progress bar over the bytes of a file, on standard error; only where somebody watches."""
    if not (sys.stderr.isatty() and file.is_file()):
        yield lambda _: None
        return
    with typer.progressbar(length=file.stat().st_size, label=file.name, file=sys.stderr) as bar:
        yield bar.update


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pgn {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


def _as_clause(text: str) -> str:
    """The sentence without its capital and its full stop, in one line."""
    text = " ".join(text.split()).rstrip(".")
    return text[:1].lower() + text[1:]


def main() -> NoReturn:
    """Entry point of the console script: user errors become one line and an exit code."""
    try:
        code = app(prog_name="pgn", standalone_mode=False)
    except PgnError as error:
        print(f"pgn: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except _MistypedError as error:  # Typer would tell it in a box of seven lines
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            asked = error.ctx.command_path if error.ctx else "pgn"
            said = _as_clause(error.format_message().replace("Value error, ", ""))
            print(f"pgn: {said} (`{asked} --help` lists what there is)", file=sys.stderr)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)
