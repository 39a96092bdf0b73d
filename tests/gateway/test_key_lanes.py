"""Keys take turns: one key's many jobs are no other's wait."""

import numpy as np
from tests.gateway.conftest import Keys, StartGateway

from vaefarm_producer import Farm

ARRAY = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float16)
RAW = {"vae": "demo", "shape": "1,4,8,8", "dtype": "float16"}


async def test_the_jobs_of_each_key_wait_in_a_lane_of_its_own_unless_they_name_one(
    start_gateway: StartGateway, keys: Keys, farm: Farm
) -> None:
    ann, ben, root = keys.make("ann"), keys.make("ben"), keys.make("root", admin=True)
    gateway = await start_gateway(keys=keys.path)
    for headers, named in ((ann, {}), (ben, {}), (ben, {"producer": "night"}), (root, {})):
        async with gateway.client.post("/v1/jobs", params=RAW | named, data=ARRAY.tobytes(), headers=headers) as answer:
            assert answer.status == 202, await answer.text()

    lanes = {queue.name.rpartition(".")[2]: queue.queued for queue in farm.queues()}
    assert lanes == {"ann": 1, "ben": 1, "night": 1, "default": 1}
