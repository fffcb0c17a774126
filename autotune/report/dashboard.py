"""optuna-dashboard for our studies, with constraints shown rightly.

optuna-dashboard 0.21 reads only the list of constraints that Optuna wrote before version 5, so it would colour infeasible
trials as feasible, and its badge for the best trials ignores constraints. Both are mended here, in this process only and
without touching the database; the names used are private, so pyproject.toml pins the dashboard's minor version and a test
renders it.
"""

from __future__ import annotations

import copy
import socketserver
from collections.abc import Callable, Sequence
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from autotune.errors import EnvironmentProblem

_PREFIX = "constraints:"


def serve_dashboard(url: str, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serves until interrupted; `ready` gets the address. Raises EnvironmentProblem when the port or the package is missing."""
    try:
        server = make_server(host, port, dashboard_app(url), server_class=_ThreadingServer, handler_class=_QuietHandler)
    except OSError as exc:
        raise EnvironmentProblem(f"cannot listen on {host}:{port}: {exc}.", remedy="autotune dashboard STUDY --port 0") from exc
    with server:
        ready(f"http://{host}:{server.server_port}/dashboard/")
        server.serve_forever()


def dashboard_app(url: str) -> Any:
    """The WSGI application on the database at `url`."""
    try:
        import optuna_dashboard
        from optuna_dashboard import _app
    except ImportError as exc:
        raise EnvironmentProblem("optuna-dashboard is not installed.", remedy="pip install 'autotune[dashboard]'") from exc
    from optuna.storages import RDBStorage
    from optuna_dashboard._pareto_front import get_pareto_front_trials

    def feasible_front(*, trials: Sequence[Any], directions: Any) -> Any:
        return get_pareto_front_trials(trials=[t for t in trials if _is_feasible(t)], directions=directions)

    _app.get_pareto_front_trials = feasible_front
    return optuna_dashboard.wsgi(_constraint_storage(RDBStorage(url, engine_kwargs=_options(url))))


def _options(url: str) -> dict[str, Any]:
    return {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}


def _constraint_storage(backend: Any) -> Any:
    """Optuna's cached storage, whose trials carry their constraints in the old form as well."""
    from optuna.storages._cached_storage import _CachedStorage

    class WithOldConstraints(_CachedStorage):
        def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[Any]:
            return [_with_old_form(t) for t in super().get_all_trials(study_id, deepcopy=deepcopy, states=states)]

        def get_trial(self, trial_id: int) -> Any:
            return _with_old_form(super().get_trial(trial_id))

    return WithOldConstraints(backend)


def _with_old_form(trial: Any) -> Any:
    values = [v for k, v in sorted(trial.system_attrs.items()) if k.startswith(_PREFIX)]
    if not values:
        return trial
    twin = copy.copy(trial)
    twin.system_attrs = {**trial.system_attrs, "constraints": values}
    return twin


def _is_feasible(trial: Any) -> bool:
    return all(v <= 0 for k, v in trial.system_attrs.items() if k.startswith(_PREFIX))


class _ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A browser polls several times a second; nobody reads that."""
