"""A nursery behind a context manager, whose user need not know that it is there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def background_nursery() -> AsyncIterator[trio.Nursery]:
    """For tasks that serve the body and end with it: they are cancelled when the body ends.

    What the body raises comes out as it is, not wrapped in an exception group, so that `except SomeError` around the
    `async with` of a client works. An exception of a task comes out in a group, as of any nursery.
    """
    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as failure:
                raised = failure
                raise
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1 and group.exceptions[0] is raised:
            context = raised.__context__
            try:
                raise raised
            finally:
                raised.__context__ = context  # the group that wrapped it says nothing to anyone
                raised = None  # no cycle through this frame
        raise
