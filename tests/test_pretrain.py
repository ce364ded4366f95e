"The command as a user meets it"
import json, math, os, subprocess, sys, sysconfig, warnings
import matplotlib.pyplot as plt, pandas as pd, pytest, torch
from pathlib import Path
from psm_fastai import pretrain
from psm_fastai.history import NeighbourHistory
from common import command
from data import digit_files
from fake_view import unpacked

def on_mac(args): return (*args,'--device','cpu') if sys.platform=='darwin' and '--device' not in args else args      # see conftest.py

def psm_pretrain(*args):
    "The installed command, in a process of its own"
    program = Path(sysconfig.get_path('scripts'))/'psm_pretrain'
    return subprocess.run([program, *map(str, on_mac(args))], capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS='1'))

def test_digits_and_moco(tmp_path, capsys):
    args = 'digits','--epochs',2,'--limit',300,'--compare','moco','--out',tmp_path/'run'
    code,said,err = command(capsys, *on_mac(args))
    assert code==0, err
    for line in ('raw pixels', 'untrained', 'PSM', 'MoCo', 'chance'): assert line in said
    names = {f.name for f in (tmp_path/'run').iterdir()}
    assert names=={'encoder.safetensors','features.parquet','before_after.png','history.csv','history_moco.csv','curves.png',
                   'neighbours.html','run.json','checkpoint.pth','checkpoint_moco.pth','neighbours.parquet','neighbours.safetensors',
                   'neighbours_moco.parquet','neighbours_moco.safetensors'}
    assert NeighbourHistory.load(tmp_path/'run').title=='PSM'
    assert NeighbourHistory.load(tmp_path/'run/neighbours_moco').metrics().knn_acc[1:].notna().all()
    h = pd.read_csv(tmp_path/'run/history.csv')
    assert {'epoch','train_loss','valid_loss','purity','false_neg','trusted','knn_acc','lr','seconds'} <= set(h.columns) and len(h)==2
    # of nothing there is no purity
    assert h.drop(columns='purity').notna().all(axis=None) and (h.purity.notna() | (h.trusted==0)).all()

def test_the_same_seed_gives_the_same_history(tmp_path, capsys):
    "In a process of its own, and in this one, which drew random numbers before"
    args = 'digits','--epochs',1,'--limit',200,'--seed',3,'--out'
    assert psm_pretrain(*args, tmp_path/'1').returncode==0
    assert command(capsys, *on_mac(args), tmp_path/'2')[0]==0
    a,b = (pd.read_csv(tmp_path/i/'history.csv').drop(columns='seconds') for i in '12')
    pd.testing.assert_frame_equal(a, b)

@pytest.fixture
def folder(tmp_path):
    return digit_files(tmp_path/'images', 12)

@pytest.mark.parametrize('args,says', [
    (['nowhere'], "'nowhere' is neither digits, cifar10 nor cifar100"),
    (['digits','--epochs','0'], '--epochs must be a whole number, at least 1, got 0'),
    (['digits','--lr','-1'], '--lr must be a number, above 0'),
    (['digits','--size','32'], '--size is for image files'),
    (['digits','--bs','9999'], '--bs 9999 is more than the 1347'),
    (['digits','--arch','resnet19'], "Unknown architecture 'resnet19'"),
    (['digits','--compare','simclr'], "--compare takes psm, ppsm, pnsm, from_bank, moco, nnclr, msf, byol, got 'simclr'"),
    (['digits','--method','simclr'], "--method takes psm, ppsm, pnsm, from_bank, moco, nnclr, msf, byol, got 'simclr'"),
    (['digits','--rule','nearest'], "rule must be 'index' or 'bank'"),
    (['digits','--rule','bank','--trust','.1'], "The rule of mining 'bank' has no trust"),
    (['digits','--soft-temp','.1'], "The rule of mining 'index' has no soft_temp"),
    (['digits','--views','photo'], 'These views change colours and need 3 channels'),
    (['digits','--split-bn','40'], 'split_bn=40 needs batches of at least 80'),
    (['digits','--arch','vit_b_16'], 'vit_b_16 does not have the weights of a convolution first'),
    (['digits','--device','gpu'], "--device gpu can't be used here"),
    (['EMPTY'], 'No images in'),
    (['ALIKE','--eval','linear'], '--eval linear needs two classes, and all of these images are a'),
    (['BROKEN'], "1 of 13 images can't be read: broken.png"),
])
def test_what_cannot_work_is_one_line_and_exit_code_2(folder, tmp_path, capsys, args, says):
    if args==['EMPTY']: args = [tmp_path/'empty']; args[0].mkdir()
    if args[0]=='ALIKE':
        args = [folder/'t.csv',*args[1:]]
        args[0].write_text('name,label\n' + ''.join(f'{f.name},a\n' for f in folder.glob('*.png')))
    if args==['BROKEN']: args = [folder]; (folder/'broken.png').write_text('no image')
    with warnings.catch_warnings(record=True) as told: code,out,err = command(capsys, *on_mac(args), '--out', tmp_path/'run')
    assert code==2 and says in err and err.count('\n')==1
    assert not [w for w in told if issubclass(w.category, UserWarning)]        # a shell would show them too
    assert all(' images: ' in line for line in out.splitlines())        # what was found, at most
    assert not (tmp_path/'run').exists()

def test_the_installed_command_tells_what_cannot_work_in_one_line(tmp_path):
    res = psm_pretrain('nowhere', '--out', tmp_path/'run')
    assert res.returncode==2 and "'nowhere' is neither digits" in res.stderr and res.stderr.count('\n')==1
    assert not res.stdout and not (tmp_path/'run').exists()

def test_runs_are_neither_replaced_nor_mistaken(tmp_path):
    out = tmp_path/'run'
    out.mkdir()
    def refused(says, *args):
        with pytest.raises(ValueError, match=says): pretrain.psm_pretrain('digits', epochs=1, out=out, **dict.fromkeys(args, True))
    refused('nothing to resume', 'resume')
    for text in ('hello', '[]', '{"finished": true}'):
        (out/'run.json').write_text(text)
        refused('not a record that psm_pretrain wrote')
        refused('not a record that psm_pretrain wrote', 'resume')
    (out/'run.json').write_text('{"method": "psm", "finished": true}')
    refused('holds a finished run. For more epochs add --resume and a larger --epochs. For another run give --out another folder')
    refused('is finished, so there is nothing to resume', 'resume')
    (out/'checkpoint_moco.pth').touch()       # killed before it was deleted
    refused('holds a finished run. For more epochs add --resume and a larger --epochs. For another run give --out another folder')
    for f in out.iterdir(): f.unlink()
    for name in ('checkpoint.pth','encoder.safetensors','history_psm.csv'):
        (out/name).touch()
        refused(f'has no record of a run, and psm_pretrain would replace its {name}')
        refused(f'has no record of a run, and psm_pretrain would replace its {name}', 'resume')
        (out/name).unlink()

def test_checkpoints_of_the_user_stay(tmp_path):
    (tmp_path/'checkpoint_mine.pth').write_text('of the user')
    pretrain.psm_pretrain('digits', epochs=1, limit=100, device='cpu', out=tmp_path)
    assert {f.name for f in tmp_path.glob('*.pth')}=={'checkpoint.pth','checkpoint_mine.pth'}
    assert (tmp_path/'checkpoint_mine.pth').read_text()=='of the user'

@pytest.mark.parametrize('option,says', [(dict(workers=2), '--workers is'), (dict(valid_pct=0.), '--valid-pct is'),
    (dict(size=24), '--size is'), (dict(skip_broken=True, from_disk=True, fit='pad'), '--from-disk and --skip-broken and --fit are')])
def test_the_digits_have_no_files(tmp_path, option, says):
    with pytest.raises(ValueError, match=f'^{says} for image files, and the digits are none$'):
        pretrain.psm_pretrain('digits', limit=60, epochs=1, out=tmp_path/'run', **option)

def test_resume_keeps_the_batch_size(tmp_path):
    "One that was given has to be given again; one that the data decided may be left out, or named"
    psm_net = dict(data='digits', method='psm')
    for given,now,fits in ((32,None,False), (32,32,True), (None,None,True), (None,64,True), (None,32,False)):
        pretrain.write_run(tmp_path/'run.json', **psm_net, bs=given or 64, bs_given=given, finished=False)
        try: pretrain.check_resume(tmp_path, True, dict(psm_net, bs=now)); assert fits
        except ValueError as e: assert not fits and f'bs was {given if now is None else 64} and is now {now}' in str(e)

def test_tables_and_comparisons(folder, tmp_path, monkeypatch):
    "A table of names alone has no labels; a method to compare with has its own momentum"
    pd.DataFrame(dict(name=[f.name for f in folder.iterdir()])).to_csv(folder/'names.csv', index=False)
    momenta,make = [],pretrain.psm_learner
    def spy(dls, arch, cbs, **kwargs):
        momenta.append(cbs.settings['momentum'])
        return make(dls, arch, cbs=cbs, **kwargs)
    monkeypatch.setattr(pretrain, 'psm_learner', spy)
    learn = pretrain.psm_pretrain(str(folder/'names.csv'), epochs=1, size=24, method='byol', compare='psm', device='cpu',
                                  out=tmp_path/'run')
    assert momenta==[(.99,1.),.5] and learn.dls.train.bs==10 and not getattr(learn.dls, 'vocab', None)

def test_a_comparison_shares_what_both_take(tmp_path):
    pretrain.psm_pretrain('digits', epochs=1, limit=100, temp=.5, n_pos=7, n_neg=40, a=2., compare='ppsm', device='cpu', out=tmp_path)
    used = json.loads((tmp_path/'run.json').read_text())['settings']
    assert {n: (s['temp'],s['n_pos'],s['n_neg']) for n,s in used.items()}=={'PSM': (.5,7,40), 'PPSM': (.5,7,None)}

@pytest.mark.parametrize('name,given,has,lacks', [
    ('PSM', dict(), dict(rule='index', trust='auto', refresh=5, n_neg=None), ['soft_temp']),
    ('PSM', dict(trust=.1, refresh=3), dict(rule='index', trust=.1, refresh=3, n_neg=None), ['soft_temp']),
    ('PSM', dict(rule='bank', soft_temp=.2), dict(rule='bank', soft_temp=.2, n_neg=256), ['trust','refresh']),
    ('PSM from the bank', dict(method='from_bank', n_pos=5), dict(rule='bank', n_pos=5, n_neg=256, soft_temp=.1), ['trust','refresh']),
], ids=['default','trust','bank','from_bank'])
def test_the_rule_of_mining_is_recorded(name, given, has, lacks, tmp_path):
    "With the recipe's own settings, those that the rule has"
    learn = pretrain.psm_pretrain('digits', epochs=1, limit=100, device='cpu', out=tmp_path, **given)
    run = json.loads((tmp_path/'run.json').read_text())
    used = run['settings'][name]
    assert {n: used[n] for n in has}==has and not {*lacks} & {*used}
    assert used==dict(learn.psm.settings, bank_size=100)
    assert run['psm']==dict({n: v for n,v in given.items() if n!='method'}, momentum=.98)
    assert ('trusted' in pd.read_csv(tmp_path/'history.csv'))==(has['rule']=='index')==(learn.model.loss.index is not None)

@pytest.mark.parametrize('method,name,n_neg', [('from_bank','PSM from the bank',256), ('pnsm','PNSM',256), ('moco','MoCo',None)])
def test_an_option_that_was_not_given_leaves_the_methods_own_default(method, name, n_neg, tmp_path, capsys):
    "The number of negatives too, for which None is a value"
    args = 'digits','--epochs',1,'--limit',60,'--eval','none','--method',method,'--out',tmp_path
    code,_,err = command(capsys, *on_mac(args))
    assert code==0, err
    assert json.loads((tmp_path/'run.json').read_text())['settings'][name]['n_neg']==n_neg

def test_a_comparison_of_two_rules_takes_what_each_has(tmp_path):
    pretrain.psm_pretrain('digits', epochs=1, limit=100, method='from_bank', soft_temp=.3, n_pos=5, compare='psm', device='cpu',
                          out=tmp_path)
    used = json.loads((tmp_path/'run.json').read_text())['settings']
    assert used['PSM from the bank']['soft_temp']==.3 and 'soft_temp' not in used['PSM']
    assert [u['n_pos'] for u in used.values()]==[5,5] and used['PSM']['refresh']==5

def test_curves_show_what_was_measured(tmp_path, monkeypatch):
    "Also where kNN accuracy was measured in some epochs only, and after one epoch"
    axes,make = [],plt.subplots
    monkeypatch.setattr(plt, 'subplots', lambda *args, **kwargs: axes.append(r := make(*args, **kwargs)) or r)
    class Log: chance,untrained,before = .1,.2,"untrained"
    def drawn(**cols):
        log = Log()
        log.frame = pd.DataFrame(dict(epoch=range(len(cols['train_loss'])), **cols))
        pretrain.plot_curves({'PSM': log}, tmp_path/'c.png', {})
        return axes[-1][1]
    axs = drawn(train_loss=[3.,2.,1.,1.], knn_acc=[math.nan,.5,math.nan,.6], bank_purity=[.1,.2,.3,.4])
    assert axs[1].lines[0].get_xydata().tolist()==[[2,.5],[4,.6]]
    axs = drawn(train_loss=[3.], bank_purity=[.1])
    assert axs[0].lines[0].get_marker()=='.' and axs[1].texts[0].get_text()=='not measured'

def test_pixels_of_large_images_are_averaged(monkeypatch):
    "So that those of a whole data set fit into memory"
    for side,name,n in ((24,'raw pixels',3*24*24), (64,'pixels, means of 2x2',3*32*32), (224,'pixels, means of 7x7',3*32*32)):
        x = torch.rand(2,3,side,side)
        monkeypatch.setattr(pretrain, 'peek_batch', lambda dls: (x,))
        said,flat = pretrain._pixels(None)
        assert said==name and flat(x).shape==(2,n) and torch.allclose(flat(x).mean(), x.mean(), atol=1e-4)

@pytest.mark.posix
def test_names_need_not_be_text(tmp_path):
    "Folders of old archives are named in other encodings"
    for d in (b'caf\xe9', b'b'):
        digit_files(Path(os.fsdecode(os.fsencode(tmp_path/'images')+b'/'+d)), 8)
    pretrain.psm_pretrain(str(tmp_path/'images'), epochs=1, size=24, device='cpu', out=tmp_path/'run')
    assert json.loads((tmp_path/'run/run.json').read_text())['finished']
    assert unpacked(tmp_path/'run/neighbours.html')['vocab']==['b','caf\udce9']

def test_a_run_whose_path_is_an_object_goes_on(tmp_path):
    "What a notebook may give"
    run = dict(data=Path('images'), bs=8)
    pretrain.write_run(tmp_path/'run.json', method='psm', finished=False, **run)
    pretrain.check_resume(tmp_path, True, run)
    with pytest.raises(ValueError, match="data was 'images' and is now 'others'"):
        pretrain.check_resume(tmp_path, True, dict(run, data=Path('others')))

def test_a_run_from_before_n_pos_had_its_name_goes_on(tmp_path):
    pretrain.write_run(tmp_path/'run.json', method='psm', finished=False, bs=8, psm=dict(refresh=1, k=7))
    pretrain.check_resume(tmp_path, True, dict(bs=8, psm=dict(refresh=1, n_pos=7)))
    with pytest.raises(ValueError, match="'n_pos': 7} and is now .*'n_pos': 5}"):
        pretrain.check_resume(tmp_path, True, dict(bs=8, psm=dict(refresh=1, n_pos=5)))

@pytest.mark.parametrize('name,steps,torchs', [
    ('sgd', 3, lambda p: torch.optim.SGD(p, lr=.06, momentum=.9, weight_decay=.05)),
    ('rmsprop', 1, lambda p: torch.optim.RMSprop(p, lr=.06, momentum=.9, weight_decay=.05)),      # later steps average before they divide
])
def test_momentum_and_weight_decay_are_those_of_torch(name, steps, torchs):
    "fastai's bare `SGD` and `RMSProp` have no momentum, and weight decay apart from the gradient"
    torch.manual_seed(0)
    start,grads = torch.randn(20),torch.randn(steps+1, 20)
    p,r = (start.clone().requires_grad_() for _ in 'pr')
    opt,other = pretrain.optimizers[name]([p], lr=.06, wd=.05),torchs([r])
    for g in grads[:steps]:
        for w,o in ((p,opt),(r,other)): w.grad = g.clone(); o.step()
    assert torch.allclose(p, r, atol=1e-6)
    before = p.detach().clone()
    p.grad = torch.zeros(20)
    opt.step()
    assert (p-before).abs().min()>1e-4        # what came before still moves it

@pytest.mark.parametrize('opt', ['sgd','larc','rmsprop'])
def test_momentum_stays_where_gradients_pile_up(opt, tmp_path):
    learn = pretrain.psm_pretrain('digits', epochs=1, limit=100, opt=opt, lr=1e-4, device='cpu', out=tmp_path)
    assert {*learn.recorder.hps['mom']}=={.9} and 'average_grad' in [getattr(cb, '__name__', '') for cb in learn.opt.cbs]

def test_resnets_have_their_recipe(tmp_path, capsys):
    "It is printed and recorded, gives way to what is asked for, and goes into fewer parts where batches are small"
    digit_files(tmp_path/'images', 50)
    def run(out, **kwargs):
        learn = pretrain.psm_pretrain(str(tmp_path/'images'), arch='cifar_resnet18', epochs=1, size=8, device='cpu', out=tmp_path/out,
                                      **kwargs)
        return learn,json.loads((tmp_path/out/'run.json').read_text()),capsys.readouterr().out
    learn,r,said = run('a', bs=32)
    assert [r[n] for n in ('opt','lr','wd','warmup')]==['sgd',.06,5e-4,5]
    assert [r['settings']['PSM'][n] for n in ('temp','split_bn','momentum')]==[.1,2,.99]
    assert 'Recipe for ResNets: sgd, lr 0.06 after 0.25 of 1 epochs, wd 0.0005, batches of 32, temp 0.1, split_bn 2, momentum 0.99' in said
    assert {*learn.recorder.hps['mom']}=={.9} and learn.opt.hypers[0]['wd']==5e-4
    learn,r,_ = run('b', lr=.01, temp=.3, compare='byol')
    assert r['lr']==.01 and [r['settings']['PSM'][n] for n in ('temp','split_bn')]==[.3,1] and r['settings']['BYOL']['split_bn']==1
    learn,r,said = run('c', opt='adam')
    assert [r[n] for n in ('opt','lr','wd','warmup')]==['adam',.003,.01,None] and r['settings']['PSM']['temp']==.07 and 'Recipe' not in said

def test_the_small_networks_recipe_stays():
    assert {d: pretrain.recipe_for(d) for d in ('digits','cifar10')}=={
        'digits': dict(opt='adam', epochs=65, bs=64, lr=8e-3, momentum=.98, wd=.05, warmup=None, psm={}, knn_k=20),
        'cifar10': dict(opt='adam', epochs=20, bs=128, lr=3e-3, momentum=.99, wd=.01, warmup=None, psm={}, knn_k=20)}

def test_few_steps_take_less_momentum(folder, tmp_path, capsys):
    "The recipe of a folder, if none was given. It is told, and recorded"
    def run(out, **kwargs):
        learn = pretrain.psm_pretrain(str(folder), size=16, device='cpu', out=tmp_path/out, **kwargs)
        recorded = json.loads((tmp_path/out/'run.json').read_text())['settings']['PSM']['momentum']
        return learn.psm.settings['momentum'],recorded,capsys.readouterr().out
    used,recorded,said = run('a', epochs=40)
    assert used==recorded==.75 and 'leaves the momentum network' not in said
    assert 'momentum   0.75, not 0.99, because 40 steps are few. --momentum sets another one' in said
    used,_,said = run('b', epochs=2, momentum=.97)
    assert used==.97 and '--momentum sets' not in said

def test_settings_fit_the_number_of_images(folder, tmp_path, monkeypatch):
    plain,gentle = pretrain.recipe_for('photos'),pretrain.recipe_for('photos', 'resnet18', pretrained=True)
    assert [pretrain.by_size(n, plain) for n in (10,100,1000,10_000,100_000)]==[(10,600),(16,100),(62,38),(128,20),(128,20)]
    assert [pretrain.by_size(n, gentle) for n in (10,100,10_000)]==[(10,4),(16,4),(32,4)]
    assert pretrain.by_size(100, plain, bs=50)==(50,300)
    seen = []
    def stop(source, size, **kwargs):
        seen.append(size)
        raise ValueError('seen')
    monkeypatch.setattr(pretrain, 'image_dls', stop)
    for how in (dict(), dict(pretrained=True, arch='resnet18'), dict(pretrained=True, arch='resnet18', size=96)):
        with pytest.raises(ValueError, match='seen'): pretrain.psm_pretrain(str(folder), out=tmp_path/'run', **how)
    assert seen==[64,128,96]
