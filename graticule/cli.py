"""The `graticule` command. Each part is loaded only when one of its sub-commands is asked for."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from graticule import __version__
from graticule.errors import BadInput, GraticuleError, MissingPart, SettingsError
from graticule.export_cli import export_app
from graticule.jobs import Lane
from graticule.parts import load_part as _part
from graticule.settings import Settings, describe_settings, env_name, load_settings

EXIT_FAILED = 1
EXIT_USAGE = 2

app = typer.Typer(
    name="graticule",
    help="Turn instruments' images into measurements on a small cluster.\n\n"
    "Begin with: graticule demo. Every setting has an environment variable: graticule settings lists them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
simulate_app = typer.Typer(help="Simulated instruments, for demonstrations and tests.", no_args_is_help=True)
app.add_typer(simulate_app, name="simulate")
tokens_app = typer.Typer(help="Tokens: who may ask the gateway for what.", no_args_is_help=True)
app.add_typer(tokens_app, name="tokens")
dead_letters_app = typer.Typer(
    help="Jobs that were given up although their picture may be good: look at them, send them again, drop them.",
    no_args_is_help=True,
)
app.add_typer(dead_letters_app, name="dead-letters")
stream_app = typer.Typer(
    help="Series of pictures: objects followed from frame to frame, growth, drift.", no_args_is_help=True
)
app.add_typer(stream_app, name="stream")
models_app = typer.Typer(
    help="The models that workers serve: publish versions, choose the one in production, go back.",
    no_args_is_help=True,
)
app.add_typer(models_app, name="models")
app.add_typer(export_app, name="export")

errors = Console(stderr=True)


def setting_option(field: str, *flags: str) -> Any:  # noqa: ANN401 (typer's own type)
    """A command-line option bound to a setting: the same description, the environment variable in the help."""
    description = Settings.model_fields[field].description or ""
    return typer.Option(
        *(flags or (f"--{field.replace('_', '-')}",)),
        help=f"{description} [env: {env_name(field)}]",
        show_default=False,
    )


DataDir = Annotated[Path | None, setting_option("data_dir", "--data-dir")]
ModelOption = Annotated[str, typer.Option("--model", "-m", help="Model: name, or name@version.")]
Include = Annotated[list[str] | None, typer.Option("--include", help="Take only files like this, e.g. '*.tif'.")]
Exclude = Annotated[list[str] | None, typer.Option("--exclude", help="Leave out files like this.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--parameter", "-p", help="Override of the model's post-processing, e.g. threshold=0.4."),
]
LaneOption = Annotated[str, typer.Option("--lane", help="interactive goes before bulk.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"graticule {__version__}")
        raise typer.Exit


# -- the embedded cluster ---------------------------------------------------------------------------------


@app.command()
def up(
    data_dir: DataDir = None,
    worker: Annotated[bool, typer.Option(help="Start a worker.")] = True,
    flower: Annotated[bool, typer.Option(help="Start Flower, the page that shows the queues.")] = True,
    gateway: Annotated[bool, typer.Option(help="Start the gateway: the web page and the HTTP interfaces.")] = True,
) -> None:
    """Start a whole cluster on this machine and keep it running. Ctrl-C stops it; the data stay."""
    commands = _part("graticule.local.commands", "The embedded cluster", "local")
    raise typer.Exit(commands.up(load_settings(data_dir=data_dir), worker=worker, flower=flower, gateway=gateway))


@app.command()
def down(data_dir: DataDir = None) -> None:
    """Stop the cluster that `graticule up` started on this machine."""
    commands = _part("graticule.local.commands", "The embedded cluster", "local")
    raise typer.Exit(commands.down(load_settings(data_dir=data_dir)))


@app.command()
def status(
    data_dir: DataDir = None, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """Show the parts of the cluster, their versions, the queues, and how many jobs are done."""
    commands = _part("graticule.local.commands", "The cluster's status", "local")
    raise typer.Exit(commands.status(load_settings(data_dir=data_dir), as_json=as_json))


@app.command()
def doctor(data_dir: DataDir = None) -> None:
    """Check this machine and report everything that is missing or wrong, at once."""
    commands = _part("graticule.local.commands", "The doctor", "local")
    raise typer.Exit(commands.doctor(load_settings(data_dir=data_dir)))


@app.command()
def demo(
    once: Annotated[int | None, typer.Option("--once", min=1, help="Stop after this many pictures.")] = None,
    rate: Annotated[float, typer.Option(min=0.01, help="Pictures a second.")] = 4.0,
    folder: Annotated[Path | None, typer.Option(help="Watch this folder instead of simulated pictures.")] = None,
    directory: Annotated[Path, typer.Option("--dir", help="Where the demo keeps its files.")] = Path("graticule-demo"),
    model: ModelOption = "tile-defects",
    seed: Annotated[int, typer.Option(help="Seed of the simulated pictures.")] = 1,
) -> None:
    """Start a cluster, let a simulated camera drop pictures into a watched folder, and show them becoming results."""
    _part("graticule.local.commands", "The demo", "local")
    module = _part("graticule.demo", "The demo", "local")
    settings = load_settings()
    raise typer.Exit(
        module.demo(settings, once=once, rate=rate, folder=folder, directory=directory, model=model, seed=seed)
    )


# -- producers ----------------------------------------------------------------------------------------------


@app.command()
def submit(
    files: Annotated[list[Path], typer.Argument(help="Pictures.")],
    model: ModelOption,
    stream: Annotated[
        str | None, typer.Option(help="Name that groups a series. Default: for frames of a stack or movie, its path.")
    ] = None,
    lane: LaneOption = "interactive",
    parameters: Parameters = None,
    wait: Annotated[bool, typer.Option(help="Wait for the results and print one line for each.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Send pictures to the cluster, and every frame of stacks and movies.

    Prints the identity of each job; --wait prints the results.
    """
    from graticule import submit_command

    raise typer.Exit(
        submit_command.submit(
            load_settings(),
            files,
            model=model,
            stream=stream,
            lane=lane,
            parameters=parse_parameters(parameters),
            wait=wait,
            as_json=as_json,
        )
    )


@app.command()
def run(
    paths: Annotated[list[Path], typer.Argument(help="Pictures, stacks, movies, or folders of them.")],
    model: ModelOption,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for masks, overlays and tables.")],
    include: Include = None,
    exclude: Exclude = None,
    parameters: Parameters = None,
    labels: Annotated[bool, typer.Option(help="Also write masks whose pixels hold the object's number.")] = False,
    overlays: Annotated[bool, typer.Option(help="Write pictures with the objects drawn in.")] = True,
    timeout: Annotated[float | None, typer.Option(help="Give up waiting after this many seconds.")] = None,
    stream: Annotated[
        str | None, typer.Option(help="Name of the series. Default: for frames of a stack or movie, its path.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Analyse pictures and write masks, overlays and tables here. Starts a cluster for the time if none is running.

    The exit code is 0 only if every picture succeeded. Running the same command again goes on where it stopped.
    """
    _part("pyarrow", "Writing tables", "local")
    module = _part("graticule.run", "Runs", "local")
    raise typer.Exit(
        module.run(
            load_settings(data_dir=data_dir),
            paths,
            model=model,
            out=out,
            include=include or [],
            exclude=exclude or [],
            parameters=parse_parameters(parameters),
            labels=labels,
            overlays=overlays,
            timeout=timeout,
            stream=stream,
        )
    )


@app.command()
def watch(
    folder: Annotated[Path, typer.Argument(help="Folder that a camera writes into; sub-folders are watched too.")],
    model: ModelOption,
    include: Include = None,
    exclude: Exclude = None,
    existing: Annotated[bool, typer.Option(help="Also take the pictures that are there already.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Take what is there, then stop.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many pictures.")] = None,
    duration: Annotated[float | None, typer.Option("--for", help="Stop after this many seconds.")] = None,
    recursive: Annotated[bool, typer.Option(help="Watch sub-folders too.")] = True,
    polling: Annotated[bool, typer.Option("--polling", help="Look regularly: for network shares.")] = False,
    rescan: Annotated[float, typer.Option(help="Seconds between two looks at everything.")] = 30.0,
    settle: Annotated[
        float, typer.Option(help="Seconds after which a file that stands still but cannot be read is sent anyway.")
    ] = 10.0,
    stream: Annotated[str | None, typer.Option(help="Name of the series. Default: the folder's path.")] = None,
    lane: LaneOption = "bulk",
    parameters: Parameters = None,
    journal: Annotated[Path | None, typer.Option(help="Where to remember what was sent. Default: per user.")] = None,
    write_back: Annotated[
        bool, typer.Option("--write-back", help="Write masks and defect-details.json into FOLDER/masks.")
    ] = False,
    legacy_fraction: Annotated[
        bool, typer.Option("--legacy-fraction", help="Records also hold the older tool's void_frac.")
    ] = False,
    data_dir: DataDir = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="One line for every picture.")] = False,
) -> None:
    """Watch a folder and send every picture that is written there. A restart goes on where it stopped."""
    commands = _part("graticule_producers.watcher.commands", "The watcher", "watcher")
    settings = load_settings(data_dir=data_dir)
    configure_logging("debug" if verbose else settings.log_level)
    raise typer.Exit(
        commands.run_watch(
            settings,
            folder=folder,
            model=model,
            include=include or [],
            exclude=exclude or [],
            existing=existing,
            once=once,
            limit=limit,
            duration=duration,
            recursive=recursive,
            polling=polling,
            rescan=rescan,
            settle=settle,
            stream=stream,
            lane=lane,
            parameters=parse_parameters(parameters),
            journal=journal,
            write_back=write_back,
            legacy_fraction=legacy_fraction,
        )
    )


@simulate_app.command("tiles")
def simulate_tiles(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write into.")],
    count: Annotated[int | None, typer.Option(min=1, help="Pictures; without it, until Ctrl-C.")] = None,
    rate: Annotated[float, typer.Option(min=0, help="Pictures a second; 0: as fast as possible.")] = 4.0,
    seed: Annotated[int, typer.Option(help="The same seed draws the same pictures.")] = 1,
    size: Annotated[str, typer.Option(help="Smallest and largest side, e.g. 120:480 px. Default: as real ones.")] = "",
    truth: Annotated[Path | None, typer.Option(help="Folder for the true masks and truth.csv.")] = None,
    defect_share: Annotated[float, typer.Option(min=0, max=1, help="Share of pictures with a defect.")] = 0.6,
) -> None:
    """Draw photographs of magnetic tiles, some with defects, as a camera over a production line would write them."""
    commands = _part("graticule_producers.simulate.commands", "The simulator", "watcher")
    raise typer.Exit(
        commands.run_simulate_tiles(
            out=out, count=count, rate=rate, seed=seed, size=size, truth=truth, defect_share=defect_share
        )
    )


@simulate_app.command("tem")
def simulate_tem(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write into.")],
    count: Annotated[int | None, typer.Option(min=1, help="Experiments; without it, until Ctrl-C.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Pictures of one experiment: voids grow, the stage drifts.")] = 1,
    stack: Annotated[bool, typer.Option("--stack", help="One multi-page file for each experiment.")] = False,
    rate: Annotated[float, typer.Option(min=0, help="Pictures a second; 0: as fast as possible.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed draws the same pictures.")] = 1,
    size: Annotated[int, typer.Option(help="Side of a picture, px.")] = 1024,
    focus: Annotated[str, typer.Option(help="under, in or over. Default: any.")] = "",
    truth: Annotated[Path | None, typer.Option(help="Folder for true masks, truth.csv and tracks.csv.")] = None,
) -> None:
    """Take bright-field TEM micrographs of voids among dislocations, single ones or an in-situ experiment.

    Example: `graticule simulate tem --out camera --frames 600 --rate 10 --truth camera-truth`
    """
    commands = _part("graticule_producers.simulate.commands", "The simulator", "watcher")
    raise typer.Exit(
        commands.run_simulate_tem(
            out=out,
            count=count,
            frames=frames,
            stack=stack,
            rate=rate,
            seed=seed,
            size=size,
            focus=focus,
            truth=truth,
        )
    )


# -- streams ---------------------------------------------------------------------------------------------------

StreamName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the stream, as `list` shows it.")]
SearchRange = Annotated[
    float, typer.Option("--search-range", min=0.1, help="The farthest that an object moves between two frames, px.")
]
LinkMemory = Annotated[int, typer.Option("--memory", min=0, help="Frames for which an object may be missed.")]


@stream_app.command("list")
def stream_list(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """List the streams, the one with the newest job first."""
    commands = _part("graticule_workers.streams.commands", "The analysis of streams", "streams")
    raise typer.Exit(commands.list_streams(load_settings(), as_json=as_json))


@stream_app.command("show")
def stream_show(
    name: StreamName,
    search_range: SearchRange = 15.0,
    memory: LinkMemory = 3,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what a stream amounts to: frames, objects, tracks, growth, drift.

    Example: `graticule stream show /data/camera --search-range 20`
    """
    commands = _part("graticule_workers.streams.commands", "The analysis of streams", "streams")
    raise typer.Exit(commands.show(load_settings(), name, search_range=search_range, memory=memory, as_json=as_json))


@stream_app.command("export")
def stream_export(
    name: StreamName,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the tables.")],
    search_range: SearchRange = 15.0,
    memory: LinkMemory = 3,
    drift: Annotated[
        list[str] | None,
        typer.Option("--drift", help="tracks, pairs or many-pairs; repeatable. The first one is taken off the tracks."),
    ] = None,
) -> None:
    """Write frames, objects, tracks, their summary and the drift as Parquet.

    Example: `graticule stream export /data/camera --out camera-tables --drift many-pairs --drift tracks`
    """
    commands = _part("graticule_workers.streams.commands", "The analysis of streams", "streams")
    raise typer.Exit(
        commands.export(
            load_settings(), name, out=out, search_range=search_range, memory=memory, methods=drift or ["tracks"]
        )
    )


# -- the gateway ------------------------------------------------------------------------------------------------


@app.command()
def gateway(
    host: Annotated[str | None, setting_option("gateway_host", "--host")] = None,
    port: Annotated[int | None, setting_option("gateway_port", "--port")] = None,
    auth: Annotated[str | None, setting_option("gateway_auth", "--auth")] = None,
    log_level: Annotated[str | None, setting_option("log_level")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only tell whether the gateway of this host is ready; for health checks.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Serve the web page and the HTTP interfaces, until told to stop."""
    if check:
        from graticule import server_commands

        raise typer.Exit(server_commands.ask(f"http://127.0.0.1:{port or load_settings().gateway_port}/readyz"))
    service = _part("graticule_producers.gateway.service", "The gateway", "gateway")
    settings = load_settings(
        gateway_host=host, gateway_port=port, gateway_auth=auth, log_level=log_level, data_dir=data_dir
    )
    configure_logging(settings.log_level)
    raise typer.Exit(service.serve(settings))


@tokens_app.command("create")
def tokens_create(
    name: Annotated[str, typer.Argument(help="Who or what it is for.")],
    scopes: Annotated[
        list[str] | None, typer.Option("--scope", help="submit, read or admin; repeatable. Default: submit and read.")
    ] = None,
    expires: Annotated[str, typer.Option(help="12h, 90d, 4w, or never.")] = "90d",
    data_dir: DataDir = None,
) -> None:
    """Make a token for the gateway and print it. It cannot be shown again: only its hash is kept."""
    from graticule import tokens_command

    settings = load_settings(data_dir=data_dir)
    raise typer.Exit(tokens_command.create(settings, name, scopes or ["submit", "read"], expires))


@tokens_app.command("list")
def tokens_list(data_dir: DataDir = None) -> None:
    """List the tokens: id, name, scopes, when they were made and until when they are good."""
    from graticule import tokens_command

    raise typer.Exit(tokens_command.show(load_settings(data_dir=data_dir)))


@tokens_app.command("revoke")
def tokens_revoke(
    identity: Annotated[str, typer.Argument(metavar="ID", help="Id of the token, as listed.")], data_dir: DataDir = None
) -> None:
    """Make a token worthless, at once for new connections, within ten seconds for the others."""
    from graticule import tokens_command

    raise typer.Exit(tokens_command.revoke(load_settings(data_dir=data_dir), identity))


# -- models --------------------------------------------------------------------------------------------------

ModelArgument = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Without a version: that in production.")]
VersionArgument = Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A published version.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@models_app.command("push")
def models_push(
    folder: Annotated[Path, typer.Argument(help="Model folder: manifest.yaml and the ONNX file that it names.")],
    promote: Annotated[bool, typer.Option(help="Put this version into production at once.")] = True,
) -> None:
    """Publish a model folder as a new version, after checking that workers can run it.

    A published version never changes: give a changed model a new version in its manifest.

    Example: `graticule models push models/tile-defects --no-promote`
    """
    checking = _part("graticule_exporters.checking", "Checking a model", "export")
    from graticule import models_command

    raise typer.Exit(models_command.push(load_settings(), folder, promote=promote, check=checking.check_model))


@models_app.command("list")
def models_list(as_json: AsJson = False) -> None:
    """List the models: version in production, number of versions, task, size of the file.

    Example: `graticule models list --json`
    """
    from graticule import models_command

    raise typer.Exit(models_command.list_models(load_settings(), as_json=as_json))


@models_app.command("show")
def models_show(model: ModelArgument, as_json: AsJson = False) -> None:
    """Show what a model takes and gives, where it comes from, how good it is, and which versions there are.

    Example: `graticule models show tile-defects`
    """
    from graticule import models_command

    raise typer.Exit(models_command.show(load_settings(), model, as_json=as_json))


@models_app.command("promote")
def models_promote(model: VersionArgument) -> None:
    """Put a published version into production. Workers load it beside the old one and change over within seconds.

    Jobs that name a version keep getting that version.

    Example: `graticule models promote tile-defects@1.1.0`
    """
    from graticule import models_command

    raise typer.Exit(models_command.promote(load_settings(), model))


@models_app.command("rollback")
def models_rollback(name: Annotated[str, typer.Argument(help="Name of the model.")]) -> None:
    """Put the version into production that was there before the current one. Again: the one before that.

    Example: `graticule models rollback tile-defects`
    """
    from graticule import models_command

    raise typer.Exit(models_command.rollback(load_settings(), name))


@models_app.command("pull")
def models_pull(
    model: ModelArgument,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write. Default: the model's name.")] = None,
) -> None:
    """Write a published model as a model folder, checked against its SHA-256. Overwrites nothing.

    Example: `graticule models pull tile-defects@1.0.0 --out tile-defects-1.0.0`
    """
    from graticule import models_command

    raise typer.Exit(models_command.pull(load_settings(), model, out))


@models_app.command("remove")
def models_remove(
    model: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A version; with --all, a name alone.")],
    whole: Annotated[bool, typer.Option("--all", help="Remove the model with all its versions.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a version for ever, or a whole model. The version in production is not removed alone.

    Examples: `graticule models remove tile-defects@0.9.0`, `graticule models remove tile-defects --all --yes`
    """
    from graticule import models_command

    raise typer.Exit(models_command.remove(load_settings(), model, whole=whole, yes=yes))


# -- workers -------------------------------------------------------------------------------------------------


@app.command()
def worker(
    models: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Serve only this model. Default: every published one.")
    ] = None,
    lanes: Annotated[
        list[str] | None, typer.Option("--lane", help="Take jobs only from this lane: interactive or bulk.")
    ] = None,
    processes: Annotated[int | None, setting_option("worker_processes", "--processes")] = None,
    threads: Annotated[int | None, setting_option("worker_threads", "--threads")] = None,
    provider: Annotated[str | None, setting_option("provider")] = None,
    metrics_port: Annotated[int | None, setting_option("metrics_port")] = None,
    log_level: Annotated[str | None, setting_option("log_level")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only tell whether the workers of this host consume; for health checks.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Take jobs from the queues and run the models, until told to stop.

    `--check` exits with 0 when every worker process of this host is at work, else with 1 and the reason.
    """
    commands = _part("graticule_workers.commands", "The worker", "worker")
    settings = load_settings(
        worker_processes=processes,
        worker_threads=threads,
        provider=provider,
        metrics_port=metrics_port,
        log_level=log_level,
        data_dir=data_dir,
    )
    if check:
        raise typer.Exit(commands.run_check(settings))
    configure_logging(settings.log_level)
    raise typer.Exit(commands.run_worker(settings, models or [], [_lane(lane) for lane in lanes or []]))


# -- dead letters --------------------------------------------------------------------------------------------

JobIds = Annotated[list[str] | None, typer.Argument(metavar="[JOB]...", help="Ids of jobs, as `list` shows them.")]
AllLetters = Annotated[bool, typer.Option("--all", help="Every dead letter.")]


@dead_letters_app.command("list")
def dead_letters_list(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """List the jobs that were given up, with the reason."""
    from graticule import dead_letters_command

    raise typer.Exit(dead_letters_command.list_letters(load_settings(), as_json=as_json))


@dead_letters_app.command("show")
def dead_letters_show(
    job: Annotated[str, typer.Argument(help="Id of the job.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show one of them: where it came from, and every process that died of it."""
    from graticule import dead_letters_command

    raise typer.Exit(dead_letters_command.show_letter(load_settings(), job, as_json=as_json))


@dead_letters_app.command("retry")
def dead_letters_retry(jobs: JobIds = None, everyone: AllLetters = False) -> None:
    """Send jobs again, for example after a model or a worker was mended."""
    from graticule import dead_letters_command

    raise typer.Exit(dead_letters_command.retry_letters(load_settings(), jobs or [], everyone=everyone))


@dead_letters_app.command("drop")
def dead_letters_drop(jobs: JobIds = None, everyone: AllLetters = False) -> None:
    """Forget them. The jobs stay failed; their pictures stay in the store."""
    from graticule import dead_letters_command

    raise typer.Exit(dead_letters_command.drop_letters(load_settings(), jobs or [], everyone=everyone))


@app.command("settings")
def show_settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table, for documentation.")] = False,
) -> None:
    """List every setting: its environment variable, its default, what it means."""
    if markdown:
        rows = (f"| `{name}` | {default} | {text} |" for name, default, text in describe_settings())
        typer.echo("\n".join(["| environment variable | default | meaning |", "| --- | --- | --- |", *rows]))
        return
    table = Table("Environment variable", "Default", "Meaning")
    for row in describe_settings():
        table.add_row(*row)
    Console().print(table)


# -- running a server ----------------------------------------------------------------------------------------


@app.command()
def rights(
    form: Annotated[
        str,
        typer.Argument(help="table; redis: the file of users; seaweedfs: identities; s3-policy: one role's policy."),
    ] = "table",
    role: Annotated[str, typer.Argument(help="Role, for s3-policy.")] = "",
) -> None:
    """Show what each role may do in the object store and in Redis, as a table or as the servers' own files."""
    from graticule import rights_command

    raise typer.Exit(rights_command.show(load_settings(), form, role))


@app.command()
def provision(
    secrets: Annotated[
        Path | None, typer.Option("--secrets", help="Folder with the files of deploy/setup: makes its tokens good.")
    ] = None,
    minio: Annotated[bool, typer.Option("--minio", help="The store is MinIO: make its users of --secrets.")] = False,
    models: Annotated[bool, typer.Option(help="Publish the models that come with graticule.")] = True,
) -> None:
    """Make the object store ready: buckets, users, tokens, models. It may be repeated; needs an administrator's key."""
    from graticule import server_commands

    raise typer.Exit(server_commands.make_ready(load_settings(), secrets, minio=minio, models=models))


@app.command()
def backup(folder: Annotated[Path, typer.Argument(help="Folder of the backups; made if it is missing.")]) -> None:
    """Copy all buckets into a folder. Only what is new is copied; earlier backups in it stay whole."""
    from graticule import server_commands

    raise typer.Exit(server_commands.back_up(load_settings(), folder))


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="Folder of the backups.")],
    name: Annotated[str, typer.Option("--backup", help="Name of the backup. Default: the newest.")] = "",
) -> None:
    """Bring a backup back. What the store holds already stays as it is."""
    from graticule import server_commands

    raise typer.Exit(server_commands.restore(load_settings(), folder, name))


@app.command()
def reindex() -> None:
    """Rebuild the index of jobs in Redis from the results, for example after `restore`."""
    from graticule import server_commands

    raise typer.Exit(server_commands.reindex(load_settings()))


# -- helpers --------------------------------------------------------------------------------------------------


def parse_parameters(pairs: list[str] | None) -> dict[str, Any]:
    """`["threshold=0.4"]` -> `{"threshold": 0.4}`: values are JSON where they can be, else text."""
    parameters: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"expected NAME=VALUE, found {pair!r}")
        try:
            parameters[name.strip()] = json.loads(value)
        except ValueError:
            parameters[name.strip()] = value
    return parameters


def _lane(name: str) -> Lane:
    try:
        return Lane(name)
    except ValueError:
        raise typer.BadParameter(f"expected {' or '.join(Lane)}, found {name!r}") from None


def configure_logging(level: str) -> None:
    """Readable lines on a terminal, plain ones in a file."""
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = RichHandler(console=errors, show_path=False, rich_tracebacks=False)
        handler.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def main() -> None:
    """Run the command line; every expected error is one clear sentence and an exit code."""
    _run(app)


def _run(command: Callable[..., object]) -> None:
    try:
        command()
    except (SettingsError, MissingPart, BadInput) as error:
        errors.print(str(error), style="red", markup=False, highlight=False)
        sys.exit(EXIT_USAGE)
    except GraticuleError as error:
        errors.print(str(error), style="red", markup=False, highlight=False)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        sys.exit(130)
