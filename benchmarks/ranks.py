"""What one bank for several processes costs: time and bytes of gathering keys and of entering them, with 1 and 2 processes on one machine (gloo), beside mining in it

python benchmarks/ranks.py
"""
import os, socket, statistics, warnings
warnings.filterwarnings('ignore')
import torch, torch.distributed as dist, torch.nn.functional as F
from fastcore.script import call_parse
from torch.nn.parallel import DistributedDataParallel
from types import SimpleNamespace
from psm_fastai.bank import MemoryBank
from psm_fastai.learner import gather_ranks
from psm_fastai.loss import PSMLoss
from bench import in_turn, save

def work(rank, world, port, o, queue):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), GLOO_SOCKET_IFNAME='lo')
    dist.init_process_group('gloo', rank=rank, world_size=world)
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    learn = SimpleNamespace(model=DistributedDataParallel(torch.nn.Linear(2, 2)))      # all that `gather_ranks` looks at
    q,k = F.normalize(torch.randn(2, o.bs, o.dim), dim=2)
    images,rows = torch.arange(2*o.bs).view(o.bs, 2),[]
    for K in o.banks:
        bank,psm = MemoryBank(K, o.dim),PSMLoss()
        for ids in torch.arange(K).split(8192): bank.enqueue(F.normalize(torch.randn(len(ids), o.dim), dim=1), ids)
        def gather(): return gather_ranks(learn, k),gather_ranks(learn, images)
        keys,all_images = gather()
        def enqueue(): bank.enqueue(keys, *all_images.unbind(1))
        t = in_turn(o.rounds, gather=gather, enqueue=enqueue, mine=lambda: psm.mine(q, k, images[:,0], bank))
        rows.append(dict(processes=world, K=K, bytes=world*(k.nbytes+images.nbytes), **{f'{n}_ms': statistics.median(v)*1e3 for n,v in t.items()}))
    if not rank: queue.put(rows)
    dist.destroy_process_group()

@call_parse
def main(
    bs:int=256, # Batch size of each process
    dim:int=128, # Length of keys
    rounds:int=15, # Measurements of each
):
    o,rows = SimpleNamespace(bs=bs, dim=dim, rounds=rounds, banks=(4096,65536)),[]
    for world in (1,2):
        with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
        ctx = torch.multiprocessing.get_context('spawn')
        queue = ctx.SimpleQueue()
        ps = [ctx.Process(target=work, args=(r, world, port, o, queue)) for r in range(world)]
        for p in ps: p.start()
        rows += queue.get()
        for p in ps: p.join()
    for r in rows: print(f"{r['processes']} processes, K = {r['K']:>6,}: {r['bytes']/1e3:6.0f} kB gathered in {r['gather_ms']:.2f} ms, entered in {r['enqueue_ms']:.2f} ms; mining {r['mine_ms']:.1f} ms")
    save('ranks', rows)
