"""The faster ways of a step beside the plain ones, each pair measured in turn

python benchmarks/ways.py
"""
import statistics, warnings
warnings.filterwarnings('ignore')
import torch, torch.nn.functional as F
from copy import deepcopy
from fastai.vision.all import Hue, TensorImage, nn, partial
from fastcore.script import call_parse
from psm_fastai import loss, mining
from psm_fastai.bank import MemoryBank
from psm_fastai.encoder import small_resnet
from psm_fastai.neighbours import holds, is_among
from psm_fastai.views import ColorMatrix
from unittest.mock import patch
from bench import in_turn, ratio, save

def in_blocks(s, k):
    "`top_rows` wherever it could be used"
    with patch.object(mining, '_enough', 1): return mining.top_rows(s, k)

def _one_table(q, rows, mask): return (q @ rows.T/.07).masked_fill(~mask, -1e9).logsumexp(1)

def split_norm(net, n):
    "A copy of `net` whose batch-norm sees `n` parts of a batch apart, while all else sees the whole batch"
    net = deepcopy(net)
    def forward(m, x): return torch.cat([nn.BatchNorm2d.forward(m, o) for o in x.tensor_split(n)])
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): m.forward = partial(forward, m)
    return net

def norm(*shape): return F.normalize(torch.randn(*shape), dim=1)

def pairs(bs, dim):
    "Name to functions: the plain way, and the other one"
    x = TensorImage(torch.rand(2*bs, 3, 32, 32))
    hue,colours = Hue(.1, p=.8),ColorMatrix()
    yield 'hue of two views: fastai\'s Hue, and all colours by ColorMatrix',lambda: hue(x, split_idx=0),lambda: colours(x, split_idx=0)
    net = small_resnet()
    one_pass,im = split_norm(net, 4),x[:bs].as_subclass(torch.Tensor)
    yield 'split_bn=4: a pass for each part, and one pass with parts in batch-norm',lambda: torch.cat([net(o) for o in im.tensor_split(4)]).sum().backward(),lambda: one_pass(im).sum().backward()
    shape = bs,4096
    yield 'Gumbel noise, 4,096 rows: exponential_, and two logarithms of rand',lambda: -torch.empty(shape).exponential_().log(),lambda: torch.rand(shape).clamp_(min=1e-38).log_().neg_().log_()
    for K in (4096,65536):
        rows,q,idx,s = norm(K, dim),norm(bs, dim).requires_grad_(),torch.randint(K, (bs,276)),torch.randn(bs, K)
        yield f'loss, {K:,} rows: all of them, and the 276 that are used',lambda: (q @ rows.T).gather(1, idx).sum().backward(),lambda: (rows[idx] @ q[:,:,None]).sum().backward()
        yield f'variance by rank, {K:,} rows: all sorted, and the 256 largest',lambda: s.sort(1, descending=True).values.var(0).mean(),lambda: s.topk(256, 1).values.var(0).mean()
        for n in (20,256)[:1+(K>4096)]: yield f'the {n} largest of {K:,}: topk, and blocks first',lambda: s.topk(n, dim=1),lambda: in_blocks(s, n)
    bank,psm,k,ids = MemoryBank(65536, dim),loss.PSMLoss(),norm(bs, dim),torch.arange(bs)
    for part in torch.arange(65536).split(8192): bank.enqueue(norm(len(part), dim), part)
    def mine(table):
        def f():
            with patch.multiple(loss, _table=table, _least=1): psm.mine(q.detach(), k, ids, bank)
        return f
    everything,mask = norm(65536, dim),torch.rand(bs, 65536)<.999
    yield 'loss with all of 65,536 rows as negatives: one table, and blocks of 4,096',lambda: _one_table(q, everything, mask).sum().backward(),lambda: loss._LogSumExp.apply(q, everything, mask, .07).sum().backward()
    ids,trusted = torch.randint(50_000, (65536,)),torch.randint(50_000, (bs,20))
    yield 'rows of 20 trusted images, 65,536 rows: each row looked up, and each image',lambda: is_among(ids.expand(bs, -1), trusted),lambda: holds(ids, trusted)
    for e in (22,18): yield f'mining, 65,536 rows: 2^24 similarities at a time, and 2^{e}',mine(2**24),mine(2**e)

@call_parse
def main(
    bs:int=256, # Batch size
    dim:int=128, # Length of keys
    rounds:int=15, # Measurements of each
    only:str='', # Part of the names of the pairs to measure; the others keep their rows
):
    torch.manual_seed(0)
    rows = []
    for name,plain,other in pairs(bs, dim):
        if only not in name: continue
        t = in_turn(rounds, plain=plain, other=other)
        rows.append(dict(name=name, plain_ms=statistics.median(t['plain'])*1e3, other_ms=statistics.median(t['other'])*1e3, other_over_plain=ratio(t['other'], t['plain'])))
        print(f"{name}: {rows[-1]['plain_ms']:.1f} ms, {rows[-1]['other_ms']:.1f} ms")
    save('ways', rows, sizes=('name',))
