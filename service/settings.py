"""The settings: one frozen class, read once from the environment and `.env`, passed down from there."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service import cores

ROOT = Path(__file__).resolve().parent.parent
"""The checkout that the service runs from."""


def _default_cores() -> int:
    return max(1, cores.available() - 1)


def _default_prediction_processes() -> int:
    return min(2, cores.available())


class Settings(BaseSettings):
    """Every value can be given as an environment variable of the same name, or in a file `.env`."""

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", frozen=True, use_attribute_docstrings=True, case_sensitive=False
    )

    listen: str = "127.0.0.1:50051"
    """The address that gRPC listens on, host:port. Port 0 takes a free one."""

    model_dir: Path = Path("model_repository")
    """The directory of the models, in Triton's layout. FitServe keeps its own state in `.fitserve` below it."""

    training_cores: int = Field(default_factory=_default_cores, ge=0, le=4096)
    """The cores that all training processes together may use. The default is all but one of those that the
    container, or the machine, has for it. With 0 the service trains nothing and needs no training libraries."""

    prediction_processes: int = Field(default_factory=_default_prediction_processes, ge=1, le=256)
    """The processes that answer predictions, on the same port. Each has a Python event loop of its own, which one core can
    keep busy; all but the first only predict. The default is 2, or 1 where there is one core. MAX_CALLS,
    PREDICTION_QUEUE_ROWS and PREDICTION_QUEUE_BYTES hold for each."""

    max_loaded_models: int = Field(default=8, ge=1, le=100_000)
    """The most versions, of all models, that may be loaded into Triton; copies of one do not count."""

    triton_url: str = ""
    """The host:port of a Triton that runs already and sees MODEL_DIR as its model repository, with explicit model control.
    Empty: the service runs its own."""

    triton_python: Path = ROOT / ".venv-triton" / "bin" / "python"
    """The interpreter of the embedded Triton's environment, which `make setup` makes."""

    triton_start_seconds: float = Field(default=60.0, gt=0)
    """How long Triton may take to answer before the service gives up its start."""

    database_url: str = ""
    """The database of jobs and wanted loads, as an SQLAlchemy URL. Empty: SQLite in MODEL_DIR/.fitserve."""

    max_message_bytes: int = Field(default=64 * 2**20, ge=2**10, le=2**31 - 2**26)
    """The largest message, in bytes."""

    max_calls: int = Field(default=8192, ge=1)
    """The most calls at work at one time; more are refused with RESOURCE_EXHAUSTED."""

    training_queue: int = Field(default=1000, ge=0)
    """The most jobs that may wait for cores."""

    prediction_queue_rows: int = Field(default=1_000_000, ge=1)
    """The most rows that may wait for one version, unless its Load says otherwise."""

    prediction_queue_bytes: int = Field(default=512 * 2**20, ge=1)
    """The most bytes of rows, as 32-bit floats, that may wait or be at work for all models together. The service needs about
    three times as much memory."""

    stream_batches: int = Field(default=16, ge=1, le=10_000)
    """The most batches of one PredictStream that are at work at one time."""

    grace_seconds: float = Field(default=30.0, ge=0)
    """How long calls and trainings may go on after SIGTERM or SIGINT."""

    import_file_bytes: int = Field(default=2**30, ge=2**10, le=2**40)
    """The largest file that ImportModel takes, in bytes."""

    import_memory_bytes: int = Field(default=4 * 2**30, ge=2**26)
    """The memory that the process may use which makes a version of an imported file, in bytes."""

    import_seconds: float = Field(default=300.0, gt=0)
    """How long that process may take."""

    import_torchscript: bool = False
    """Whether ImportModel takes TorchScript. Such a file is a program: with it on, every caller may run code of their own,
    here and in Triton. What obviously touches files is refused, but torch has no sandbox."""

    heartbeat_seconds: float = Field(default=120.0, gt=0)
    """A training process that gives no sign of life for so long is ended."""

    log_level: str = "INFO"
    """The least important log lines wanted: DEBUG, INFO, WARNING or ERROR."""

    @field_validator("listen")
    @classmethod
    def _has_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError("give host:port, such as 127.0.0.1:50051")
        return value

    @field_validator("triton_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        return cls._has_port(value) if value else value

    @field_validator("log_level")
    @classmethod
    def _is_level(cls, value: str) -> str:
        if value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError("give DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @property
    def database(self) -> str:
        """The database's URL, with the default filled in."""
        return self.database_url or f"sqlite:///{self.model_dir.resolve()}/.fitserve/fitserve.db"


class PredictionProcessSettings(BaseModel):
    """What a further process is told at its start; the names that `Settings` has too mean the same.

    Attributes:
        primary: Where the primary process takes the calls that are passed on to it.
        token: Shows the primary who passes them on.
    """

    model_config = ConfigDict(frozen=True)

    primary: str
    token: str
    model_dir: Path
    max_message_bytes: int
    max_calls: int
    prediction_queue_rows: int
    prediction_queue_bytes: int
    stream_batches: int
    grace_seconds: float
    log_level: str

    @classmethod
    def of(cls, settings: Settings, primary: str, token: str) -> PredictionProcessSettings:
        """Returns the settings of the processes that follow the primary one, which has these."""
        same = settings.model_dump(include=set(cls.model_fields) - {"model_dir"})
        return cls(primary=primary, token=token, model_dir=settings.model_dir.resolve(), **same)


def read_settings() -> Settings:
    """Returns the settings. Raises ValueError with one line that names the first wrong setting."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        problem = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{name}={first['input']!r}: {problem}") from None


def help_text() -> str:
    """Returns the settings with their defaults and explanations, for --help."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = f"{default}" if default not in ("", None) else "empty"
        description = " ".join((field.description or "").split())
        lines.append(f"  {name.upper()} (default: {shown})\n      {description}")
    return "\n".join(lines)
