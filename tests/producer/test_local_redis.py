"""The Redis that `vaefarm up` and the benchmarks start."""

from pathlib import Path

from vaefarm_producer.local.redis_server import LocalRedis
from vaefarm_shared.connection import connect
from vaefarm_shared.redis_policy import check_policy, read_policy


def test_a_durable_one_syncs_each_write_and_packs_nothing_as_it_writes_its_file_anew(tmp_path: Path) -> None:
    with LocalRedis(tmp_path / "redis", durable=True) as server, connect(server.url) as connection:
        warnings, policy = check_policy(connection, allow_eviction=False), read_policy(connection)
        asked = ("rdbcompression", "auto-aof-rewrite-min-size")
        kept = [connection.config_get(name)[name] for name in asked]

    assert (warnings, policy.aof_enabled, policy.appendfsync) == ([], True, "always")
    assert kept == ["no", str(512 * 2**20)]
