"A Learner's whole life: finding a rate, looking, interrupts, half precision, accumulation, memory formats, compiling"
import copy, math, random, sys
import numpy as np, pytest, torch
from fastai.vision.all import (CancelEpochException, CancelFitException, CrossEntropyLossFlat, ChannelsLast, GradientAccumulation, MixUp,
    SGD, SchedCos, default_device, load_learner, nn, partial, set_seed)
from psm_fastai.all import *
from common import *
from data import loaders

def chance(dls): return torch.get_rng_state().tolist(),random.getstate(),np.random.get_state()[1].tolist(),dls.train.rng.getstate()

@pytest.mark.guarantee('lr_find')
@pytest.mark.parametrize('trained', [False,True])
def test_lr_find_leaves_no_trace(trained):
    set_seed(0)
    learn = quiet(cbs=[PSMCallback(bank_size=128), HealthCallback()])
    if trained: learn.fit_one_cycle(1, 1e-3)
    list(learn.dls.valid), learn.dls.train.n_inp          # fastai looks once at an item
    before,was = state(learn),chance(learn.dls)
    assert 1e-7 < learn.lr_find(show_plot=False).valley < 10
    assert same(before, state(learn)) and chance(learn.dls)==was
    assert len(learn.psm.health_cb.rows)==int(trained)

@pytest.mark.guarantee('lr_find')
def test_lr_find_that_diverges_puts_the_model_back():
    learn = quiet(model=nn.Sequential(*[nn.Conv2d(1 if i==0 else 8, 8, 3, padding=1) for i in range(13)]), cbs=[PSMCallback(bank_size=64)])
    before = state(learn)
    learn.lr_find(start_lr=1, end_lr=1e4, show_plot=False, suggest_funcs=None)
    assert same(before, state(learn)) and not len(learn.model.bank) and learn.recorder.losses[-1]<math.inf

@pytest.mark.guarantee('lr_find')
def test_lr_find_on_other_images_keeps_no_rows_of_those_before():
    "Their items are no files, and they are as many"
    a,b = (loaders(*([*zip(torch.rand(n,1,16,16), [0]*n)] for n in (128,64)), bs=32) for _ in 'ab')
    learn = quiet(a, cbs=[PSMCallback(bank_size=128)], loss_func=no_loss)
    learn.fit(1)
    learn.dls = b
    learn.lr_find(num_it=8, show_plot=False, suggest_funcs=None)
    old = learn.model.bank.feats.clone()
    looked = []
    learn.fit(1, cbs=Spy(before_batch=lambda cb: looked.append(learn.model.bank.feats.clone())))
    assert not any((old==row).all(1).any() for row in looked[0])

@pytest.mark.guarantee('looking')
def test_looking_changes_nothing(learn, monkeypatch):
    "self_supervised #56, fastai #2892: `summary` or `lr_find` fills the queue"
    monkeypatch.setattr('matplotlib.pyplot.show', lambda: None)
    before = state(learn)
    learn.summary()
    learn.dls.show_batch(max_n=2)
    learn.validate()
    learn.get_preds()
    learn.predict(learn.dls.valid_ds[0][0])
    with pytest.raises(TypeError, match='show_loss'): learn.show_results(max_n=2)
    learn.knn_accuracy(), mined_neighbours(learn), learn.features(), learn.nearest(learn.dls.valid_ds[0][0])
    assert same(before, state(learn))

@pytest.mark.guarantee('looking')
@pytest.mark.parametrize('gone', ['never','remove_cb','fit'])
def test_predictions_are_features(gone):
    set_seed(0)
    cb = PSMCallback(bank_size=128)
    learn = quiet(cbs=None if gone=='fit' else [cb])       # its labels give it the cross-entropy, whose predictions would be probabilities
    learn.fit(1, 1e-3, cbs=[cb] if gone=='fit' else None)
    if gone=='remove_cb': learn.remove_cb(cb)
    encoder,x = cb.psm_net.encoder,learn.dls.valid.one_batch()[0]
    want = encoder.eval()(x).mean((2,3)).cpu()
    feats,targs = learn.get_preds()
    assert torch.allclose(feats[:len(x)], want, atol=1e-5) and len(targs)==len(feats)==450
    assert torch.allclose(learn.predict(learn.dls.valid_ds[3][0])[2], want[3], atol=1e-5)

def test_the_learners_own_loss_works_as_before():
    set_seed(0)
    cb,head = PSMCallback(bank_size=128),nn.Sequential(tiny(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    learn = quiet(model=head, cbs=[cb])
    learn.remove_cb(cb)
    preds,targs,losses = learn.get_preds(with_loss=True)
    want = nn.functional.cross_entropy(preds.as_subclass(torch.Tensor), targs.as_subclass(torch.Tensor).long(), reduction='none')
    assert torch.allclose(losses, want, atol=1e-5)
    was = learn.validate()[0]
    learn.fit(2, 1e-2)
    assert learn.validate()[0] < was
    learn.add_cb(cb)
    learn.remove_cb(cb)
    assert isinstance(learn.loss_func.loss, CrossEntropyLossFlat)       # not wrapped twice

def test_trained_in_another_way_a_learner_predicts_as_its_loss_says():
    set_seed(0)
    cb,head = PSMCallback(bank_size=128),nn.Sequential(tiny(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    learn = quiet(model=head)
    learn.fit(1, cbs=cb)
    learn.fit(1, 1e-2)
    preds,_ = learn.get_preds()
    assert type(learn.loss_func) is CrossEntropyLossFlat and torch.allclose(preds.sum(1), torch.ones(len(preds)))
    assert learn.predict(learn.dls.valid_ds[3][0])[0] in [str(o) for o in learn.dls.vocab]

@pytest.mark.parametrize('cut', [KeyboardInterrupt, CancelFitException, CancelEpochException])
def test_the_users_loader_is_as_it_was_after_an_interrupt(cut):
    "Also while it reads the first image, for which some of its methods are replaced"
    learn = quiet(cbs=[PSMCallback(bank_size=64)])
    dl,armed,replaced = learn.dls.train,[],('do_item','get_idxs','sample')
    def stop(cb):
        if cb.training and cb.iter==1: raise cut
    def own(s):
        if armed: raise cut
        return dl.after_item(dl.create_item(s))
    def arm(cb): armed.append(1)
    def own_order(): return [*range(200)]
    def found(): return {n: vars(dl)[n] for n in replaced if n in vars(dl)}
    for given,spy in ((dict(),Spy(after_batch=stop)), (dict(do_item=own),Spy(after_batch=stop)),
                      (dict(do_item=own, get_idxs=own_order),Spy(order=9.8, before_train=arm))):
        vars(dl).update(given)
        try: learn.fit(1, cbs=spy)
        except KeyboardInterrupt: pass
        assert found()==given
    assert armed

@pytest.mark.guarantee('export')
def test_an_exported_learner_gives_features(learn, tmp_path):
    x = learn.dls.valid_ds[3][0]
    want = learn.predict(x)[2]
    learn.export(tmp_path/'l.pkl')
    again = load_learner(tmp_path/'l.pkl')
    assert torch.allclose(again.predict(x)[2], want, atol=1e-6) and again.opt is None
    # with momentum network and bank, without images and optimizer
    assert same(state(learn), state(again)) and len(again.dls.train_ds)==0

class Half(HalfOnCPU):
    "Cut off in the middle of the third batch"
    armed = True
    def after_pred(self):
        if self.armed and self.training and self.iter==2: raise KeyboardInterrupt

@pytest.mark.guarantee('interrupt')
def test_an_interrupt_leaves_half_precision_and_a_consistent_bank():
    set_seed(0)
    half = Half()
    learn = quiet(digits_dls(bs=32, limit=200).cpu(), cbs=[PSMCallback(bank_size=100), half])
    with pytest.raises(KeyboardInterrupt): learn.fit(1, 1e-3)
    assert not torch.is_autocast_enabled('cpu')
    half.armed = False
    learn.fit(2, 1e-3)
    assert not torch.is_autocast_enabled('cpu')
    bank,ds = learn.model.bank,learn.dls.train_ds
    assert len(bank)==100 and bank.labels.tolist()==[int(ds[i][1]) for i in bank.ids.tolist()]
    assert ((bank.feats.norm(dim=1)-1).abs()<1e-5).all()

@pytest.mark.guarantee('interrupt')
def test_an_interrupt_anywhere_in_enqueue_mixes_no_rows():
    """`enqueue` is cut off before each line that it executes, those of its loop each time round.
    A row that counts holds one image's key, id and label"""
    def key(i): return torch.nn.functional.one_hot(torch.as_tensor(i)%8, 8).float()
    def batch(start): ids = torch.arange(start, start+3); return key(ids),ids,ids%5
    code,cuts,through = MemoryBank._enqueue.__code__,0,False
    while not through:
        bank = MemoryBank(7, 8)
        for s in (0,3,6): bank.enqueue(*batch(s))
        lines = 0
        def trace(frame, event, arg):
            nonlocal lines
            if frame.f_code is not code: return None
            lines += event=='line'
            if lines>cuts: raise KeyboardInterrupt
            return trace
        sys.settrace(trace)
        try:
            bank.enqueue(*batch(9))
            through = True
        except KeyboardInterrupt: cuts += 1
        finally: sys.settrace(None)
        for s in (12,15):
            r = bank.ready
            assert torch.equal(bank.feats[r], key(bank.ids[r])) and torch.equal(bank.labels[r], bank.ids[r]%5)
            bank.enqueue(*batch(s))
    assert cuts>20

@pytest.mark.guarantee('priming')
def test_priming_leaves_statistics_and_random_numbers():
    set_seed(0)
    learn = quiet(digits_dls(bs=32, limit=200), cbs=[PSMCallback(bank_size=150)])
    learn.dls.train.n_inp, learn.dls.valid.n_inp
    seen = {}
    def look(cb):
        s,m = cb.model.state_dict(),cb.model
        kept = {n: t.clone() for n,t in s.items() if not n.startswith(('bank','loss.index'))}
        seen[cb.order] = kept,chance(cb.dls),(len(m.bank),int(m.loss.index.ready.sum()))
    learn.fit(1, cbs=[Spy(order=7, before_train=look), Spy(order=9.5, before_train=look)])
    (a,c,n),(b,d,m) = seen[7],seen[9.5]
    assert (n,m)==((0,0),(150,150)) and same(a, b) and c==d

@pytest.mark.guarantee('priming')
def test_an_interrupted_priming_begins_again_and_a_long_one_shows_its_progress(monkeypatch):
    learn = quiet(digits_dls(bs=2, limit=220), cbs=[PSMCallback()])
    bars,views = [],learn.psm.loss_cb.two_views
    monkeypatch.setattr('psm_fastai.files.watched', lambda: True)
    monkeypatch.setattr('psm_fastai.files.progress_bar', lambda it, total, leave: bars.append(total) or it)
    calls = []
    def cut(x):
        calls.append(len(x))
        if len(calls)==5: raise KeyboardInterrupt
        return views(x)
    learn.psm.bank_cb.views = cut
    learn.model.to(learn.dls.device)
    with pytest.raises(KeyboardInterrupt): learn.psm.bank_cb.before_train()
    assert len(learn.model.bank)==0
    learn.psm.bank_cb.before_train()
    assert len(learn.model.bank)==220 and bars==[110,110]

@pytest.mark.guarantee('half')
@pytest.mark.parametrize('way', ['callback','context'])
def test_both_passes_are_in_half_precision_and_the_loss_is_not(way):
    "self_supervised: the momentum encoder runs outside of autocast"
    set_seed(0)
    seen = dict(q=set(), k=set(), loss=set(), out=set())
    learn = quiet(digits_dls(bs=32, limit=200).cpu(), cbs=[PSMCallback(bank_size=100, mine_after=0., n_pos=5, n_neg=20)])
    m = learn.model
    for n,e in (('q',m.encoder), ('k',m.momentum_encoder)):
        e.register_forward_hook(lambda _,i,o,n=n: seen[n].add(o.dtype) if m.training else None)
    m.loss.register_forward_hook(lambda _,i,o: seen['loss'].update((o.dtype, *(t.dtype for t in i[:2]))))
    if way=='callback': learn.fit(1, 1e-3, cbs=HalfOnCPU())
    else:
        learn.psm.bank_cb.before_train()                   # primed before, in the full precision of `before_train`
        learn.psm.bank_cb.before_train = lambda: None
        with torch.autocast('cpu', torch.bfloat16): learn.fit(1, 1e-3)
    assert seen['q']=={torch.bfloat16} and torch.bfloat16 in seen['k'] and seen['loss']=={torch.float32}
    bank,index = m.bank,m.loss.index
    for o in (bank,index): assert o.feats.dtype==torch.float32 and ((o.feats[o.ready].norm(dim=1)-1).abs()<1e-6).all()
    assert index.made and index.sims.dtype==torch.float32
    m.bank.to(torch.bfloat16).enqueue(torch.nn.functional.normalize(torch.randn(64, 128), dim=1))
    assert ((bank.feats.float().norm(dim=1)[bank.ready]-1).abs()<2**-7).all()

@pytest.mark.guarantee('half')
def test_a_step_cancelled_by_an_overflow_moves_no_momentum_weight():
    set_seed(0)
    half = HalfOnCPU(enabled=True, init_scale=2.**120, growth_interval=9999, backoff_factor=2.**-30)
    learn = quiet(digits_dls(bs=32, limit=200).cpu(), cbs=[PSMCallback(bank_size=100, momentum=(.5,1.)), half])
    moved,followed = [],[]
    def weights(cb): return [p.clone() for p in cb.model.momentum_encoder.parameters()]
    update = PSMModel.update_momentum
    learn.model.update_momentum = lambda momentum: (followed.append((momentum, learn.pct_train)), update(learn.model, momentum))
    def before(cb): cb.was = weights(cb)
    def after(cb):
        if cb.training: moved.append(not all(map(torch.equal, cb.was, weights(cb))))
    learn.fit(2, 1e-3, cbs=Spy(order=1, before_batch=before, after_batch=after))
    assert not moved[0] and moved[-1] and moved==sorted(moved) and len(followed)==sum(moved)
    assert all(abs(m-SchedCos(.5, 1.)(pct))<1e-9 for m,pct in followed) and followed[0][1]>0      # the schedule went on meanwhile
@pytest.mark.guarantee('accumulation')
@pytest.mark.parametrize('settings', [dict(rule='bank'), dict(trust=.5)], ids=['bank','index'])
def test_gradient_accumulation_is_that_of_a_plain_loop(settings):
    "One momentum update an optimizer step, one enqueue a batch"
    set_seed(0)
    learn = quiet(digits_dls(bs=32, limit=192), cbs=[PSMCallback(bank_size=100, n_pos=4, n_neg=None, mine_after=0., momentum=.9,
        views=mirror, **settings)], opt_func=partial(SGD, mom=0., wd=0.))
    ref,batches = [],[]
    def start(cb):
        if not ref: ref.append(copy.deepcopy(cb.model))
    def keep(cb):
        if cb.training: batches.append((cb.xb[0].clone(), cb.yb[0].clone(), cb.yb[1].clone()))
    learn.fit(1, .1, wd=0., cbs=[GradientAccumulation(64), Spy(order=9, before_batch=lambda cb: (start(cb), keep(cb)))])
    m = ref[0]
    trained = [*m.encoder.parameters(), *m.projector.parameters()]
    for i,(x,ids,labels) in enumerate(batches, 1):
        q,k = m(x, x.flip(3))
        (m.loss(q, k, ids, m.bank).mean()*32/64).backward()
        if i%2==0:
            with torch.no_grad():
                for p in trained: p -= .1*p.grad; p.grad = None
            m.update_momentum(.9)
        m.remember(k, ids, labels)
    got = state(learn)
    assert len(batches)==6 and int(m.bank.step)==int(got['bank.step'])
    for n,t in m.state_dict().items(): assert torch.allclose(t.float(), got[n].float(), atol=1e-5), n

rounding = 1e-4 if default_device().type=='cpu' else 1e-2       # a GPU rounds otherwise, and then other rows are mined now and then

def losses_of(change=None, cbs=None):
    set_seed(0)
    # Adam would make steps of the rounding errors of tiny gradients
    learn = quiet(digits_dls(bs=32, limit=320), cbs=[PSMCallback(bank_size=200, n_pos=4, n_neg=None, mine_after=0.)], opt_func=SGD)
    if change: change(learn)
    learn.fit(2, .02, cbs=cbs)
    return learn,torch.stack(learn.recorder.losses)
@pytest.mark.guarantee('compile')
def test_channels_last_gives_the_same_losses():
    _,plain = losses_of()
    learn,last = losses_of(cbs=ChannelsLast())
    assert learn.model.encoder[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert len(plain)==20 and torch.allclose(plain, last, atol=rounding)

@pytest.mark.posix     # torch.compile wants a C++ compiler
@pytest.mark.guarantee('compile')
def test_compiled_gives_the_same_losses_and_its_checkpoints_load(tmp_path):
    learn,plain = losses_of()
    compiled,losses = losses_of(change=lambda l: l.model.compile())
    assert compiled.model._compiled_call_impl is not None and torch.allclose(plain, losses, atol=rounding)
    for a,b in ((learn,compiled), (compiled,learn)):
        a.path = b.path = tmp_path
        a.save('m')
        b.load('m')
        assert same(state(a), state(b))
@pytest.mark.guarantee('compile')
@pytest.mark.parametrize('settings', [{}, dict(symmetric=True, predictor=True), dict(split_bn=2)])
def test_no_graph_break_in_forward(settings):
    x = torch.randn(8, 1, 24, 24)
    m = PSMModel(small_resnet(1), x, bank_size=16, **settings).train()
    torch._dynamo.reset()
    found = torch._dynamo.explain(m)(x, x.flip(3))
    assert found.graph_break_count==0, found.break_reasons

def test_features_of_any_size_are_predicted():
    "They stand for no class, however large they are and however few classes there are"
    net = nn.Sequential(nn.Flatten(), nn.Linear(576, 128), nn.LayerNorm(128))
    nn.init.constant_(net[2].weight, 100.)
    learn = quiet(model=net, cbs=[PSMCallback(bank_size=64)])
    learn.fit(1, 1e-3)
    im = learn.dls.valid_ds[3][0]
    for _ in range(2):
        res = learn.predict(im)
        assert not len(res[1]) and res[2].max()>len(learn.dls.vocab)
        learn.remove_cb(PSMCallback)      # its features are predicted then too
    learn.show_results(max_n=2)

def test_what_mixes_targets_is_refused():
    learn = quiet(cbs=[PSMCallback(bank_size=64)])
    with pytest.raises(TypeError, match='mix_up mixes the targets'): learn.fit(1, cbs=MixUp())
    learn.fit(1)

def test_a_compiled_copy_is_refused_with_the_way_to_compile():
    learn = quiet(cbs=[PSMCallback(bank_size=64)])
    learn.model = torch.compile(learn.model, backend='eager')
    with pytest.raises(TypeError, match='Compile it in place: learn.model.compile'): learn.fit(1)

@pytest.mark.parametrize('copied', [False,True])
def test_compiled_encoders_are_taken_and_saved(copied, tmp_path):
    enc = create_encoder('small_resnet', 1)
    if copied: enc = torch.compile(enc, backend='eager')
    else: enc.compile(backend='eager')
    learn = quiet(model=enc, cbs=[PSMCallback(bank_size=64)])
    learn.fit(1)
    learn.save_encoder(tmp_path/'e.safetensors')
    x = torch.rand(2, 1, 24, 24)
    assert torch.allclose(load_encoder(tmp_path/'e.safetensors')(x), enc.eval()(x.to(learn.dls.device)).cpu(), atol=1e-5)
