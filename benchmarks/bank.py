"""Time and memory of enqueue, mine and draw for banks of 1,024 to 1,048,576 rows, and how both grow

python benchmarks/bank.py
"""
import statistics, warnings
warnings.filterwarnings('ignore')
import torch, torch.nn.functional as F
from fastcore.script import call_parse
from psm_fastai.bank import MemoryBank
from psm_fastai.loss import PSMLoss
from bench import in_turn, save

def peak():
    "Most memory that this process has held, in bytes"
    try: open('/proc/self/clear_refs', 'w').write('5')      # begin anew
    except OSError: pass
    def read(): return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])*1024
    return read

@call_parse
def main(
    dim:int=128, # Length of keys
    bs:int=256, # Batch size
    rounds:int=7, # Measurements of each
    most:int=1048576, # Rows of the largest bank
):
    torch.manual_seed(0)
    rows,K = [],1024
    while K<=most:
        bank = MemoryBank(K, dim)
        for ids in torch.arange(K).split(8192): bank.enqueue(F.normalize(torch.randn(len(ids), dim), dim=1), ids)
        q,k = F.normalize(torch.randn(2, bs, dim), dim=2)
        ids = torch.arange(bs)
        mine,draw = PSMLoss(n_pos=20, n_neg=None),PSMLoss(n_pos=20, n_neg=256)
        held = bank.feats.nbytes
        base = int(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1])*1024
        read = peak()
        draw.mine(q, k, ids, bank)
        extra = read()-base
        t = in_turn(rounds, enqueue=lambda: bank.enqueue(k, ids), mine=lambda: mine.mine(q, k, ids, bank), mine_and_draw=lambda: draw.mine(q, k, ids, bank))
        row = dict(K=K, bank_mb=held/1e6, extra_mb=extra/1e6, **{f'{n}_ms': statistics.median(v)*1e3 for n,v in t.items()})
        rows.append(row)
        print(f"K = {K:>9,}: bank {row['bank_mb']:7.1f} MB, more while mining {row['extra_mb']:7.1f} MB; enqueue {row['enqueue_ms']:6.2f}, mine {row['mine_ms']:8.1f}, mine and draw {row['mine_and_draw_ms']:8.1f} ms")
        K *= 4
    a,b = rows[-2],rows[-1]
    for n in ('enqueue','mine','mine_and_draw'): print(f"{n}: {b[f'{n}_ms']/a[f'{n}_ms']:.2f} times the time for {b['K']//a['K']} times the rows")
    save('bank', rows)
