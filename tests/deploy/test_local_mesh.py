"""Where a mesh on loopback addresses finds room."""

from __future__ import annotations

import socket

from deploy.demo.local_mesh import blocks_listened_at, reserve_block


def test_a_block_in_which_anybody_listens_is_not_taken() -> None:
    """Such as the app of a run that was killed: a new mesh would take its answers for those of its own."""
    block, held = reserve_block()
    with held:
        other, second = reserve_block()
        second.close()
        assert other != block
        with socket.create_server((f"127.{other}.3.1", 0)):
            third, socket_of_third = reserve_block()
            socket_of_third.close()
            assert third not in (block, other)


def test_the_kernels_table() -> None:
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 01034D7F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 1\n"
        "   1: 01034E7F:1F90 01034E7F:A000 01 00000000:00000000 00:00000000 00000000  0  0 2\n"
        "   2: 00004F0A:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 3\n"
    )
    assert blocks_listened_at(table) == {0x4D}
