"""A PSM training step, whole and in parts, over its floor: the encoder's own forward, backward and optimizer step, and the momentum encoder's forward, on ready-made batches

python benchmarks/step.py                                  the sizes of the first target
python benchmarks/step.py --arch cifar_resnet18 --bs 64 --bank 65536 --dim 256 --steps 30
python benchmarks/step.py --device cuda --precision bf16 --channels-last --compile
"""
import time, warnings
warnings.filterwarnings('ignore')
import torch
from contextlib import nullcontext
from copy import deepcopy
from fastai.vision.all import Adam, Callback, ChannelsLast, DataLoaders, partial, set_seed
from fastcore.script import call_parse
from psm_fastai.all import *
from psm_fastai.pretrain import keep_memory
from bench import Pictures, ratio, save, silent, sync

class Steps(Callback):
    "Time each step of the learner, and after it a step of the floor"
    order = 1000
    def __init__(self, floor, device, parts): self.floor,self.device,self.split,self.times,self.floors,self.parts = floor,device,parts,[],[],{}
    def now(self): sync(self.device); return time.perf_counter()
    def timed(self, name, f):
        def g(*args, **kwargs):
            start = self.now()
            res = f(*args, **kwargs)
            self.parts.setdefault(name, []).append(self.now()-start)
            return res
        return g
    def before_fit(self):
        step = self.learn.one_batch
        def one_batch(i, b):
            if not self.training: return step(i, b)
            start = self.now()
            step(i, b)
            self.times.append(self.now()-start)
            start = self.now()
            self.floor()
            self.floors.append(self.now()-start)
        self.learn.one_batch = one_batch
        if self.split:
            m,(loss,momentum,bank,*_) = psm_model(self.learn),self.learn.psm.parts
            for o,names in ((m,('key','query','update_momentum')), (m.loss,('mine',)), (loss,('two_views','measure')), (bank,('after_batch',))):
                for n in names: setattr(o, n, self.timed(n, getattr(o, n)))
            m.loss.forward = self.timed('loss', m.loss.forward)
            self.learn._backward,self.learn._step = self.timed('backward', self.learn._backward),self.timed('optimizer', self.learn._step)

def measure(arch, bs, bank, dim, steps, method, device, precision, channels_last, compile, parts):
    set_seed(0)
    n = bs*steps
    dls = DataLoaders(*(MemoryDL(Pictures(m), bs=bs, shuffle=True, drop_last=True, device=device) for m in (n,bs)))
    settings = dict(bank_size=bank, proj_dim=dim, views=photo_views())
    cb = PSMCallback.moco(**settings) if method=='moco' else PSMCallback(mine_after=0., **settings)
    encoder = create_encoder(arch)
    floor_q,floor_k = deepcopy(encoder).to(device).train(),deepcopy(encoder).to(device)
    opt = Adam(list(floor_q.parameters()), lr=1e-3)
    x = torch.randn(bs, 3, 32, 32, device=device)
    if channels_last: x,floor_q,floor_k = (o.to(memory_format=torch.channels_last) for o in (x,floor_q,floor_k))
    if compile: floor_q.compile(), floor_k.compile()
    half = partial(torch.autocast, torch.device(device).type, torch.bfloat16) if precision=='bf16' else nullcontext
    def floor():
        with half():
            f = pool_features(floor_q(x))
            with torch.no_grad(): floor_k(x)
        f.float().square().mean().backward()
        opt.step()
        opt.zero_grad()
    learn = silent(psm_learner(dls, encoder, cbs=cb))
    if channels_last: learn.add_cb(ChannelsLast())
    if precision=='bf16': learn.to_bf16()
    if compile: learn.model.compile()
    rows = torch.nn.functional.normalize(torch.randn(bank, dim, device=device), dim=1)
    psm_model(learn).to(device).bank.enqueue(rows, torch.full((bank,), -1, device=device))      # full, as after the first epochs of many images
    watch = Steps(floor, device, parts)
    learn.fit(1, 1e-3, cbs=watch)
    skip = 3 if not compile else 10
    return watch.times[skip:],watch.floors[skip:],{k: sorted(v)[len(v)//2] for k,v in watch.parts.items()}

@call_parse
def main(
    arch:str='small_resnet', # Encoder
    bs:int=256, # Batch size
    bank:int=4096, # Rows of the bank
    dim:int=128, # Length of queries and keys
    steps:int=24, # Steps that are measured, less the first three
    device:str='cpu', # Or cuda
    precision:str='fp32', # Or bf16
    channels_last:bool=False, # Memory format
    compile:bool=False, # torch.compile
    sweep:bool=False, # small_resnet with batches of 64 and 256, cifar_resnet18 with 64, and banks of 4096 and 65536 rows
):
    keep_memory()         # as psm_pretrain does
    rows = []
    common = dict(steps=steps, device=device, precision=precision, channels_last=channels_last, compile=compile)
    sizes = [(a,b,k) for a,b in (('small_resnet',64),('small_resnet',256),('cifar_resnet18',64)) for k in (4096,65536)]
    for a,b,k in sizes if sweep else [(arch,bs,bank)]:
        size = dict(arch=a, bs=b, bank=k, dim=dim)
        whole,floors,_ = measure(**size, **common, method='psm', parts=False)
        _,_,parts = measure(**size, **common, method='psm', parts=True)
        moco,moco_floors,_ = measure(**size, **common, method='moco', parts=False)
        row = dict(**size, **{k: v for k,v in common.items() if k!='steps'}, psm_over_floor=ratio(whole, floors), moco_over_floor=ratio(moco, moco_floors), floor_ms=sorted(floors)[len(floors)//2]*1e3, step_ms=sorted(whole)[len(whole)//2]*1e3, parts_ms={k: v*1e3 for k,v in parts.items()})
        row['psm_over_moco'] = row['psm_over_floor']['ratio']/row['moco_over_floor']['ratio']
        rows.append(row)
        r = row['psm_over_floor']
        print(f"{a}, batch {b}, bank {k}, {dim} dimensions: step {row['step_ms']:.0f} ms over floor {row['floor_ms']:.0f} ms = {r['ratio']:.3f} ({r['low']:.3f} to {r['high']:.3f}); over a MoCo step {row['psm_over_moco']:.3f}")
        print('   '+', '.join(f'{k} {v:.1f}' for k,v in row['parts_ms'].items())+' ms')
    save('step', rows, sizes=('arch','bs','bank','dim','device','precision','channels_last','compile'))
