"A folder, a table or a list is taken for what it is, what is left out is told, and names can't do harm"
import io, os, re, socket, sys
import matplotlib.pyplot as plt
import numpy as np, pandas as pd, pytest, torch
from contextlib import redirect_stdout
from fastai.vision.all import Image, L, Path, mimetypes
from psm_fastai.all import *
from psm_fastai.mining import chance_purity
from psm_fastai.pretrain import psm_pretrain
from common import silent, state, tiny
from data import pixels, png, put, rng

def load(source, **kwargs):
    "Loaders, and the line that was printed"
    out = io.StringIO()
    with redirect_stdout(out): dls = image_dls(source, **{**dict(size=8, bs=2, device='cpu'), **kwargs})
    return dls,out.getvalue()

def sizes(dls): return len(dls.train_ds),len(dls.valid_ds)

# splits

def test_a_split_without_classes_has_none(tmp_path):
    put(tmp_path, 'train/4', 'validation/3')
    dls,line = load(tmp_path)
    assert sizes(dls)==(4,3) and not hasattr(dls, 'vocab') and 'no labels' in line

# links, pipes, rights

@pytest.mark.posix
def test_links_that_lead_back_are_not_followed(tmp_path):
    put(tmp_path/'set', 'cat/6', 'dog/6')
    for at,to in (('cat/again','cat'), ('dog/other','cat'), ('dog/up','.'), ('dog/far','..')):
        (tmp_path/'set'/at).symlink_to((tmp_path/'set'/to).resolve())
    (tmp_path/'set/self').symlink_to('self')
    dls,line = load(tmp_path/'set')
    assert sum(sizes(dls))==12 and list(dls.vocab)==['cat','dog'] and '4 link back (' in line

@pytest.mark.posix
def test_links_to_elsewhere_are_followed_once(tmp_path):
    put(tmp_path, 'a/cat/6', 'b/dogs/6')
    (tmp_path/'a/dog').symlink_to(tmp_path/'b/dogs')
    (tmp_path/'b/dogs/back').symlink_to(tmp_path/'a')
    dls,line = load(tmp_path/'a')
    assert sum(sizes(dls))==12 and list(dls.vocab)==['cat','dog'] and '1 link back (dog/back)' in line

@pytest.mark.posix
def test_pipes_are_not_opened(tmp_path):
    put(tmp_path, '5')
    os.mkfifo(tmp_path/'pipe.png')
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path/'s.png'))
        dls,line = load(tmp_path)
        assert sum(sizes(dls))==5 and '2 not a file (pipe.png, s.png)' in line
    (tmp_path/'null.png').symlink_to('/dev/zero')
    assert sum(sizes(load(tmp_path)[0]))==5
    names = [*sorted(tmp_path.glob('?.png'))[:5], tmp_path/'pipe.png', tmp_path/'null.png']
    for source in (names, pd.DataFrame(dict(f=list(map(str, names))))):
        with pytest.raises(ValueError, match="[23] of 7 images can't be read: .*pipe.png.*not a file"): load(source, label_col=None)

def test_folders_that_cannot_be_entered_are_named(tmp_path, monkeypatch):
    put(tmp_path, 'cat/5', 'dog/5', 'cow/5')
    scan = os.scandir
    def refuse(p):
        if Path(p).name=='dog': raise PermissionError(13, 'Permission denied')
        return scan(p)
    monkeypatch.setattr(os, 'scandir', refuse)
    with pytest.raises(ValueError, match=r"1 folder of .* can't be entered: dog \(Permission denied\)"): load(tmp_path)

# files

def test_files_go_by_pillow_and_not_by_the_system(tmp_path, monkeypatch):
    monkeypatch.setattr(mimetypes, 'types_map', {})
    im = Image.fromarray(pixels(16,16,3))
    kinds = [e for e in ('webp','jfif','jp2','avif','png','JPG','bmp','tga') if '.'+e.lower() in image_suffixes()]
    assert len(kinds)>=7
    for i,e in enumerate(kinds): im.save(tmp_path/f'{i}.{e}', dict(jfif='jpeg').get(e))
    for n in ('a.heic','b.svg','c.h5','d.pdf','e.mpg','notes'): (tmp_path/n).write_text('x')
    dls,line = load(tmp_path)
    assert sum(sizes(dls))==len(kinds) and all(o in line for o in ('1 .heic','1 .svg','1 .h5','1 .pdf','1 .mpg','1 without an ending'))

# labels of folders

@pytest.mark.parametrize('in_memory', [True,False])
def test_labels_by_request(tmp_path, in_memory):
    put(tmp_path, 'train/cat/2023/3', 'train/dog/2024/3', 'val/cat/2024/3')
    kw = dict(in_memory=in_memory, num_workers=0)
    assert [list(load(tmp_path, label_from=l, **kw)[0].vocab) for l in (0,-1,1)]==[['cat','dog'],['2023','2024'],['2023','2024']]
    dls,line = load(tmp_path, label_from=lambda f: int(f.stem) or None, **kw)
    x,y = dls.train.new(shuffle=False, drop_last=False, bs=6).one_batch()
    assert list(dls.vocab)==[1,2] and y.tolist()==[-1,0,1]*2 and '3 without a label' in line
    with pytest.raises(ValueError, match='label_from finds no label. The images lie 2 folders deep'): load(tmp_path, label_from=5)
    dls,line = load(tmp_path, label_col=None)
    assert not hasattr(dls, 'vocab') and len(dls.one_batch())==1 and 'no labels' in line

# labels that aren't known

@pytest.mark.parametrize('name', ['unlabelled','Unlabeled_images','unknown'])
def test_a_folder_without_labels_beside_classes(tmp_path, name):
    put(tmp_path, 'cat/6', 'dog/6', f'{name}/8')
    for kw in (dict(), dict(in_memory=False, num_workers=0)):
        dls,line = load(tmp_path, **kw)
        assert list(dls.vocab)==['cat','dog'] and '8 without a label' in line
        for ds in (dls.train_ds,dls.valid_ds):
            for f,(_,y) in zip(ds.items, ds): assert y==(-1 if f.parent.name==name else ['cat','dog'].index(f.parent.name))
        y = torch.cat([b[1] for b in dls.train.new(shuffle=False, drop_last=False)])
        assert y.tolist()==[int(y) for _,y in dls.train_ds] and -1 in y
    dls.show_batch(max_n=2)

# tables

@pytest.mark.parametrize('none', [np.nan, None, '', ' '])
def test_tables_with_empty_labels(tmp_path, none):
    put(tmp_path, '6')
    df = pd.DataFrame(dict(f=[f'{i}.png' for i in range(6)], l=['a','b',none]*2, v=[0]*3+[1]*3))
    dls,line = load(df, path=tmp_path, valid_col='v')
    assert [int(y) for _,y in dls.train_ds]==[0,1,-1]==[int(y) for _,y in dls.valid_ds] and '2 without a label' in line
    assert not hasattr(load(df.assign(l=none), path=tmp_path)[0], 'vocab')

# names

nasty = '\x1b[31mred\x1b[0m', 'two\nlines', 'ab\u202edc', 'bell\x07'
def harmless(s): return not set(s.rstrip('\n')) & set('\x1b\n\r\x07\u202e')

@pytest.mark.posix
def test_names_are_shown_and_not_acted_on(tmp_path):
    put(tmp_path, *(f'{n}/3' for n in nasty))
    _,line = load(tmp_path)
    assert '4 classes' in line and harmless(line) and r'\x1b[31mred' in line
    for n in nasty: (tmp_path/n/f'{n}.png').write_text('no image')
    with pytest.raises(ValueError) as e: load(tmp_path)
    assert "4 of 16 images can't be read" in str(e.value) and harmless(str(e.value))
    put(tmp_path, '1')
    (tmp_path/'0.png').rename(tmp_path/'\x1b.png')
    with pytest.raises(ValueError) as e: load(tmp_path)
    assert 'outside' in str(e.value) and harmless(str(e.value))

@pytest.mark.posix
def test_pictures_take_any_name(tmp_path):
    put(tmp_path, *(f'{n}/5' for n in (r'$\bad{$','two\nlines','x'*200)))
    dls,_ = load(tmp_path, bs=9)
    dls.show_batch(max_n=9)
    plt.gcf().savefig(tmp_path/'f.png')
    assert {ax.get_title() for ax in plt.gcf().axes}<={r'\$\bad{\$','two lines','x'*39+'…',''}
    plt.close('all')

@pytest.mark.parametrize('code', ['cp1251','cp437','ascii'])
def test_a_terminal_that_cannot_show_a_letter(tmp_path, code, monkeypatch):
    put(tmp_path, 'Bär/3', 'кот/3', '犬/3')
    out = io.TextIOWrapper(io.BytesIO(), encoding=code)
    monkeypatch.setattr(sys, 'stdout', out)
    image_dls(tmp_path, size=8, bs=2)
    out.flush()
    assert b'9 images' in out.buffer.getvalue() and b'?' in out.buffer.getvalue()

def test_a_terminal_that_cannot_show_the_name_of_an_image(tmp_path, monkeypatch):
    np.save(tmp_path/'犬.npy', np.array([[0,3000],[9,9]], np.uint16))
    out = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    monkeypatch.setattr(sys, 'stdout', out)
    image_dls(tmp_path, size=8, bs=1, max_value=2000, valid_pct=0)
    out.flush()
    assert b'1 of 1 images have values outside of 0 to 2,000' in out.buffer.getvalue() and b'?.npy' in out.buffer.getvalue()

def test_of_several_processes_the_first_one_prints(tmp_path, monkeypatch, capsys):
    put(tmp_path/'in', 'cat/3', 'dog/3')
    (tmp_path/'in'/'cat'/'cut.png').write_bytes(b'')
    for rank,prints in ((1,False),(0,True)):
        monkeypatch.setenv('RANK', str(rank))
        for cache in (None, tmp_path/'cache'): image_dls(tmp_path/'in', size=8, bs=2, cache=cache, skip_broken=True)
        assert bool(capsys.readouterr().out)==prints

# settings

@pytest.mark.parametrize('given,says', [(dict(bs='16'),"whole number above 0, got '16'"), (dict(bs=0),'above 0, got 0'), (dict(bs=2.),'got 2.0'),
                                        (dict(size=-3),'size must be .*got -3'), (dict(fit='padd'),"got 'padd'"),
                                        (dict(ground='weiss'),"ground must be a colour.*'weiss'"),
                                        *[(dict(ground=g),f'ground must be .*got {re.escape(repr(g))}$') for g in
                                          ((1,2), (1,2,3,4), (300,0,0), (-5,0,0), [1,2,.5], (True,0,0), 255, True, None)]])
def test_settings_that_can_not_work_are_refused_before_the_images_are_looked_for(tmp_path, given, says):
    with pytest.raises(ValueError, match=says): image_dls(tmp_path, **given)

@pytest.mark.parametrize('kind', [list, tuple, L])
def test_a_list_of_files(tmp_path, kind):
    put(tmp_path, 'cat/5', 'dog/5')
    names = [f.relative_to(tmp_path) for f in sorted(tmp_path.rglob('*.png'))]
    dls,line = load(kind(names), path=tmp_path)
    assert sizes(dls)==(8,2) and line=='10 images: 8 for training, 2 for validation, drawn at random; no labels; 3 channels\n'
    assert list(load(kind(map(str, names)), path=tmp_path, label_from=-1)[0].vocab)==['cat','dog']
    assert load(kind(tmp_path/f for f in names), label_from=lambda f: f.parent.name)[0].train_ds.items[0].exists()
    with pytest.raises(ValueError, match='empty'): load(kind([]))
    with pytest.raises(TypeError, match='must hold names of files, got a int'): load(kind([3]))

# training on all images, and on labels that aren't known

@pytest.mark.parametrize('in_memory', [True,False])
def test_training_without_a_validation_set(tmp_path, in_memory):
    put(tmp_path, 'cat/8', 'dog/8')
    dls,line = load(tmp_path, valid_pct=0, bs=4, in_memory=in_memory, num_workers=0)
    assert sizes(dls)==(16,0) and line.startswith('16 images, all for training; 2 classes')
    learn = silent(psm_learner(dls, tiny(3), n_pos=3, cbs=[PurityCallback(1), CollapseCallback(1), AgreementCallback(1),
                                                           GradientCallback(1), NeighbourHistory(n_probes=4, n_pos=3, n_neg=2)]))
    learn.fit_one_cycle(2, 1e-3)
    assert sorted(learn.model.bank.ids.tolist())==list(range(16)) and np.isfinite(learn.recorder.values[-1][0])
    assert len(learn.purity.frame)==2
    assert len(learn.features())==16 and set(learn.nearest(tmp_path/'cat/0.png', n=16).file)=={str(f) for f in tmp_path.rglob('*.png')}
    neighbour_page(learn, tmp_path/'p.html')
    with pytest.raises(ValueError, match="measured on a validation set, and this learner's dls have none"): learn.knn_accuracy()
    for look in (learn.get_preds, learn.validate):
        with pytest.raises(ValueError, match='no images to look at.* Pass ds_idx=0'): look()
    assert len(learn.get_preds(ds_idx=0)[0])==len(dls.train_ds)
    for bad in (-.1, 1, 1.5, None):
        with pytest.raises(ValueError, match='valid_pct must be a share'): load(tmp_path, valid_pct=bad)

def test_labels_that_are_not_known_count_for_nothing(tmp_path):
    "The same figures as with the labelled images alone"
    for k,hi in (('cat',(250,60,60)),('dog',(60,60,250))):
        for part,n in (('train',12),('valid',4)):
            (tmp_path/part/k).mkdir(parents=True)
            for i in range(n): Image.fromarray(rng.integers(0, hi, (8,8,3)).astype(np.uint8)).save(tmp_path/part/k/f'{i}.png')
    put(tmp_path, 'train/unlabelled/12')
    dls,_ = load(tmp_path, bs=6)
    learn = silent(psm_learner(dls, tiny(3), n_pos=3, mine_after=0., cbs=[purity := PurityCallback(1), KNNCallback(k=3)]))
    learn.fit(2)
    flat = torch.nn.Flatten()
    assert float(learn.knn_accuracy(3, encoder=flat))==1 and learn.knn_accuracy(24, encoder=flat).settings['k']==24
    assert learn.linear_probe(encoder=flat).n==8
    labels = learn.model.bank.labels
    assert (labels==-1).sum()==12 and chance_purity(labels, labels)==.5 and set(purity.by_label.label)=={'cat','dog'}
    assert learn.features().label.isna().sum()==12
    df = mined_neighbours(learn, ids=range(24, 36), k=3)
    assert df.query_label.isna().all() and df.right.isna().all()
    with pytest.raises(ValueError, match='12 of these images have none. Load the labelled ones alone'): learn.to_classifier()
    name,_,feats = learn.predict(dls.train_ds.items[0])
    assert name=='' and torch.allclose(feats, encoder_features(learn, ids=[0])[0][0], atol=1e-5)

def test_labels_may_be_any_numbers():
    "Hashes up to 2^62, for which nobody can count up to the largest"
    y = torch.tensor([2**62,17,2**62,2**31])
    assert chance_purity(y, y)==(4+1+1)/16 and chance_purity(y, torch.tensor([17,-1,17]))==.25
    x = torch.eye(4)
    assert knn_predict(x, y, x, k=1).tolist()==y.tolist() and knn_predict(x, torch.tensor([3,0,3,1]), x, k=1).tolist()==[3,0,3,1]

# the command

def test_the_command_takes_photographs_beside_folders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(tmp_path/'digits', 'cat/6', 'dog/6', '6')
    with pytest.raises(ValueError, match='--no-labels'): psm_pretrain('./digits', epochs=1, size=8)
    learn = psm_pretrain('./digits', epochs=1, size=8, no_labels=True, valid_pct=0)
    assert len(learn.dls.train_ds)==18 and (tmp_path/'runs/digits/encoder.safetensors').exists()
    assert '18 images, all for training; no labels' in capsys.readouterr().out
    with pytest.raises(ValueError, match='--no-labels is for image files'): psm_pretrain('digits', epochs=1, no_labels=True, out='x')
    assert 'digits is the data set of that name. For the folder digits give ./digits' in capsys.readouterr().out
    with pytest.raises(ValueError, match='--eval knn needs images for validation'):
        psm_pretrain('./digits/cat', epochs=1, size=8, valid_pct=0, eval='knn', out='x')

# images that are the same once they are read

def test_copies_for_training_and_for_validation_are_told(tmp_path):
    put(tmp_path, 'train/cat/5', 'train/dog/5', 'valid/cat/4', 'valid/dog/4')
    assert 'repeat' not in load(tmp_path)[1]
    for i in range(2): (tmp_path/f'valid/dog/{i}.png').write_bytes((tmp_path/f'train/cat/{i}.png').read_bytes())
    (tmp_path/'train/dog/4.png').write_bytes((tmp_path/'train/dog/3.png').read_bytes())
    line = load(tmp_path)[1].splitlines()[1]
    assert line.startswith('! 3 of 18 images repeat another one, pixel by pixel, such as train/cat/0.png and valid/dog/0.png. '
                           '2 of the 8 for validation are for training too, so accuracy will be too high. 2 have several labels.')

@pytest.mark.parametrize('same', [True,False])
def test_a_diagnosis_sees_that_all_images_are_alike(tmp_path, same, capsys):
    "Though queries differ, by their views"
    a = pixels(16,16,3)
    for i in range(20): png(tmp_path/f'{i}.png', a if same else pixels(16,16,3))
    learn = silent(psm_learner(load(tmp_path, size=16, bs=8)[0], tiny(3), n_pos=3))
    learn.fit(2, 3e-3)
    before = state(learn)
    assert ('alike' in learn.diagnose())==same and ('No sign' in capsys.readouterr().out)==(not same)
    assert learn.psm_health.frame.spread.iloc[-1]>.1 and all(torch.equal(a, b) for a,b in zip(before.values(), state(learn).values()))
