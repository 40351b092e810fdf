"""The HTTP application: whether the hub lives, and whether it serves its stream."""

from __future__ import annotations

from typing import Protocol

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel


class Served(Protocol):
    """What the application asks the running hub."""

    def reasons_not_ready(self) -> list[str]:
        """Why the hub does not serve its stream now; empty when it does."""
        ...

    def status(self) -> dict[str, object]:
        """Where the hub stands."""
        ...


class Health(BaseModel):
    """Answer of `/healthz`."""

    status: str = "ok"


class Readiness(BaseModel):
    """Answer of `/readyz`."""

    ready: bool
    reasons: list[str]
    """What keeps it from being ready, for people."""
    hub: dict[str, object]


def make_app(hub: Served) -> FastAPI:
    """The application for one running hub; it runs on the hub's own event loop."""
    app = FastAPI(title="Tidewire hub", docs_url=None, redoc_url=None)

    @app.get("/healthz")
    async def healthz() -> Health:
        """The process is alive: this answer came from the event loop that does the hub's work."""
        return Health()

    @app.get("/readyz", responses={503: {"model": Readiness}})
    async def readyz() -> JSONResponse:
        """The hub leads, is connected and subscribed, and its last commit succeeded; 503 with reasons otherwise."""
        reasons = hub.reasons_not_ready()
        answer = Readiness(ready=not reasons, reasons=reasons, hub=hub.status())
        return JSONResponse(answer.model_dump(), status_code=503 if reasons else 200)

    return app
