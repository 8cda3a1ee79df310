"""Work for a client is done while the client is there."""

import asyncio
from typing import Any

import pytest
from fastapi import Request

from service.api.disconnects import while_connected
from service.errors import Busy, ClientGone


def test_work_for_a_client_that_has_gone_is_cancelled() -> None:
    async def scene() -> tuple[list[str], str]:
        said: list[str] = []
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def work(seconds: float) -> str:
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                said.append("cancelled")
                raise
            return "done"

        request = Request({"type": "http"}, receive)
        answer = await while_connected(request, work(0.0))
        asyncio.get_running_loop().call_later(0.05, gone.set)
        with pytest.raises(ClientGone):
            await while_connected(request, work(600.0))
        return said, answer

    assert asyncio.run(scene()) == (["cancelled"], "done")


def test_what_work_raises_is_raised() -> None:
    async def scene() -> None:
        async def receive() -> dict[str, Any]:
            await asyncio.sleep(600)
            return {}

        async def work() -> None:
            raise Busy("no")

        with pytest.raises(Busy):
            await while_connected(Request({"type": "http"}, receive), work())

    asyncio.run(scene())
