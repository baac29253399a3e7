"""A model that was sharded by `fully_shard` after its adapters came, in a process of its own with one gloo rank."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import socket, torch, torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
import adapterstate
from adapterstate import LoraConfig

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.block = nn.Embedding(20, 16), nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    def forward(self, x):
        return self.block(self.emb(x)).clone()

torch.manual_seed(0)
model, x = Net().eval(), torch.arange(8).view(2, 4)
state = adapterstate.attach(model)
lora = LoraConfig(r=2, target_modules=["block.0"], trainable_token_indices={"emb": [1, 2]}, init_lora_weights=False)
state.add_adapter("a", lora)
state.add_adapter("b", LoraConfig(r=2, modules_to_save=["block.2"]))
wanted = {}
for names in (("a",), ("b",), ("a", "b"), ()):
    state.set_adapter(names)
    wanted[names] = model(x).detach()
mesh = init_device_mesh("cpu", (1,))
fully_shard(model.block[0], mesh=mesh)
fully_shard(model, mesh=mesh)
for names, expected in wanted.items():
    state.set_adapter(names)
    torch.testing.assert_close(model(x).detach(), expected)
state.set_adapter("a")
for event, error in ((state.merge_adapter, adapterstate.NotMergeableError), (state.unload, adapterstate.CoveredClassError)):
    try:
        event()
    except error as refused:
        assert "nothing has changed" in str(refused)
    else:
        raise AssertionError(f"{error.__name__} is expected")
assert state.check() == ()
dist.destroy_process_group()
print("sharded")
"""


def test_a_sharded_model_switches_and_refuses_merging() -> None:
    """Switching goes on under `fully_shard`; merging a sharded weight, and unwrapping below FSDP's class, are refused."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("sharded"), done.stderr
