"Images of every kind reach the network as what they are, in memory or not, and what can't be used is named"
import time
import numpy as np, pandas as pd, psutil, pytest, tifffile, torch
from fastai.vision.all import (Image, Learner, PILImage, PILImageBW, Tensor, TensorCategory, TensorImage, TensorImageBW, TfmdDL, URLs,
    fastai_cfg, load_learner, nn, noop)
from sklearn.datasets import load_digits
from psm_fastai import data as data_module, images
from psm_fastai.data import *
from psm_fastai.data import cifar100_stats
from psm_fastai.images import *
from data import pixels, png16, rng, save_all, small_dls, tif

# each kind: how to write image i, the channels found, the item's class, and the pixels expected
def to8(a, white): return np.rint(a*(255/white)).astype(np.uint8)
def over_white(a):
    "`[H, W, 4]` over white, by the formula"
    alpha = a[...,3:]/255
    return a[...,:3]*alpha + 255*(1-alpha)
def pil(mode=None): return lambda fn,a: (Image.fromarray(a).convert(mode) if mode else Image.fromarray(a)).save(fn)
def npy(fn, a): np.save(fn, a)
def clear(a):
    "Opacity as it is: full or none almost everywhere"
    a[...,-1] = np.where(rng.random(a.shape[:-1])<.8, (a[...,-1]>a.max()//2)*np.iinfo(a.dtype).max, a[...,-1])
    return a
g8,rgb8,rgba8 = (lambda: pixels(8,8)),(lambda: pixels(8,8,3)),(lambda: clear(pixels(8,8,4)))
def deep(*s, hi=4096, dtype=np.uint16):
    a = pixels(*s, hi=hi, dtype=dtype)
    a.flat[0] = hi-1
    return a
def hwc(a): return a if a.ndim==3 else a[...,None]
kinds = {
    'gray': ('png', g8, pil(), 1, PILImageBW, hwc),
    'one bit': ('png', lambda: pixels(8,8,hi=2)*np.uint8(255), pil('1'), 1, PILImageBW, hwc),
    'rgb': ('png', rgb8, pil(), 3, PILImage, hwc),
    'rgb tiff': ('tif', rgb8, tif(photometric='rgb'), 3, PILImage, hwc),
    'rgba': ('png', rgba8, pil(), 3, PILImage, over_white),
    'gray+alpha': ('png', lambda: clear(np.dstack([*[pixels(8,8)]*3,pixels(8,8)])), pil('LA'), 1, PILImageBW,
                   lambda a: over_white(a)[...,:1]),
    'rgbx tiff': ('tif', rgba8, tif(photometric='rgb', extrasamples=['unspecified']), 4, PILImageRGBA, hwc),
    '16-bit gray tiff': ('tif', lambda: deep(8,8), tif(), 1, PILImageBW, lambda a: hwc(to8(a,4095))),
    '16-bit gray, big-endian': ('tif', lambda: deep(8,8), tif(byteorder='>'), 1, PILImageBW, lambda a: hwc(to8(a,4095))),
    '16-bit gray png': ('png', lambda: deep(8,8), pil(), 1, PILImageBW, lambda a: hwc(to8(a,4095))),
    '16-bit rgb tiff': ('tif', lambda: deep(8,8,3), tif(photometric='rgb'), 3, PILImage, lambda a: to8(a,4095)),
    '16-bit rgb png': ('png', lambda: deep(8,8,3), png16, 3, PILImage, lambda a: to8(a,4095)),
    '16-bit rgba png': ('png', lambda: clear(deep(8,8,4, hi=65536)), png16, 3, PILImage, lambda a: over_white(to8(a,65535))),
    '16-bit gray+alpha png': ('png', lambda: clear(deep(8,8,2, hi=65536)), png16, 1, PILImageBW,
                              lambda a: over_white(to8(a,65535)[...,[0,0,0,1]])[...,:1]),
    '16-bit rgba tiff': ('tif', lambda: clear(deep(8,8,4, hi=65536)), tif(photometric='rgb', extrasamples=['unassalpha']), 3, PILImage,
                         lambda a: over_white(to8(a,65535))),
    '32-bit tiff': ('tif', lambda: deep(8,8, hi=1000, dtype=np.int32), tif(), 1, PILImageBW, lambda a: hwc(to8(a,1023))),
    'float to 1': ('tif', lambda: rng.random((8,8), dtype=np.float32), tif(), 1, PILImageBW, lambda a: hwc(to8(a,1))),
    'float rgb': ('tif', lambda: deep(8,8,3, hi=500, dtype=np.float32), tif(photometric='rgb'), 3, PILImage, lambda a: to8(a,511)),
    '5 bands': ('tif', lambda: pixels(8,8,5), tif(photometric='minisblack', planarconfig='contig'), 5, TensorBands, hwc),
    '5 bands as planes': ('tif', lambda: pixels(5,8,8), tif(photometric='minisblack', planarconfig='separate'), 5, TensorBands,
                          lambda a: a.transpose(1,2,0)),
    '5 pages': ('tif', lambda: pixels(5,8,8), tif(photometric='minisblack'), 5, TensorBands, lambda a: a.transpose(1,2,0)),
    'rgb and 2 more': ('tif', lambda: deep(8,8,5), tif(photometric='rgb', extrasamples=['unspecified']*2), 5, TensorBands,
                       lambda a: to8(a,4095)),
    '2 bands': ('tif', lambda: pixels(8,8,2), tif(photometric='minisblack', planarconfig='contig'), 2, TensorBands, hwc),
    'array, channels last': ('npy', lambda: pixels(8,8,6), npy, 6, TensorBands, hwc),
    'array, channels first': ('npy', lambda: pixels(6,8,8), npy, 6, TensorBands, lambda a: a.transpose(1,2,0)),
    'array, gray': ('npy', lambda: deep(8,8), npy, 1, PILImageBW, lambda a: hwc(to8(a,4095))),
}

@pytest.mark.parametrize('kind', kinds)
def test_every_kind_of_file(tmp_path, kind):
    ext,make,save,channels,cls,want = kinds[kind]
    arrays = [make() for _ in range(5)]
    save_all(tmp_path, arrays, '{}.'+ext, save)
    mem,disk = small_dls(tmp_path),small_dls(tmp_path, in_memory=False, num_workers=0)
    for dls in (mem,disk):
        x, = dls.train.new(shuffle=False, drop_last=False, bs=4).one_batch()
        assert x.shape==(4,channels,8,8) and type(dls.train_ds[0][0]) is cls
        assert type(x) is {1:TensorImageBW, 3:TensorImage, 4:TensorImage}.get(channels, TensorBands)
        got = ((x.as_subclass(Tensor)*.5+.5)*255).permute(0,2,3,1)
        # 1: PIL rounds where it lays images over white
        for g,f in zip(got, dls.train_ds.items): assert np.abs(g.numpy()-want(arrays[int(f.stem)])).max() < 1.01
        dls.show_batch(max_n=2)
    for a,b in zip(mem.valid, disk.valid): assert torch.equal(a[0], b[0])
    im = train_image(mem, 2)
    assert isinstance(im, Image.Image) and im.size==(8,8)

def test_channels_by_request(tmp_path):
    a = clear(pixels(8,8,4))
    save_all(tmp_path, [a]*5)
    assert (np.asarray(small_dls(tmp_path, channels=4).train_ds[0][0])==a).all()
    assert (np.abs(np.asarray(small_dls(tmp_path, channels=1).train_ds[0][0]) - over_white(a)@np.array([.299,.587,.114])) < 1.5).all()
    save_all(tmp_path, [a[...,:3],a[...,0]], 'opaque{}.png')
    dls = small_dls(tmp_path, channels=4)
    opaque = [np.asarray(im)[...,3].min()==255 for f,(im,) in zip(dls.train_ds.items, dls.train_ds) if f.name.startswith('opaque')]
    assert dls.train.one_batch()[0].shape[1]==4 and opaque and all(opaque)
    with pytest.raises(ValueError, match=r"7 of 7 images can't be read: .*0.png: it has 4 channels, not 5"): small_dls(tmp_path, channels=5)
    with pytest.raises(ValueError, match='stats are of 3 channels, and the images have 1'):
        small_dls(tmp_path, channels=1, stats=([.5]*3,[.5]*3))
    with pytest.raises(ValueError, match='channels must be a whole number'): small_dls(tmp_path, channels=1.5)

def test_one_image_in_colour_makes_colour(tmp_path):
    "Among more gray ones than the sample holds"
    save_all(tmp_path, [pixels(8,8)]*600)
    assert small_dls(tmp_path).train.one_batch()[0].shape[1]==1
    Image.fromarray(pixels(8,8,3)).save(tmp_path/'101.png')
    assert small_dls(tmp_path).train.one_batch()[0].shape[1]==3

def test_bands_that_do_not_fit_are_named(tmp_path):
    save_all(tmp_path, [pixels(8,8,5)]*5, '{}.npy', np.save)
    np.save(tmp_path/'other.npy', pixels(8,8,4))
    with pytest.raises(ValueError, match=r"1 of 6 images can't be read: other.npy\..*it has 4 channels, not 5"): small_dls(tmp_path)
    np.save(tmp_path/'other.npy', np.zeros((2,8,8,5), np.uint8))
    with pytest.raises(ValueError, match=r"other.npy: it has the shape \[2, 8, 8, 5\]"): small_dls(tmp_path)

def test_headers_of_arrays_are_read_one_at_a_time(tmp_path, monkeypatch):
    "Two threads at once make Python's parser fail, now and then, and the image would be named as one that can't be read"
    header,inside,most = np.lib.format.read_array_header_1_0,[],[]
    def slow(f):
        inside.append(f)
        most.append(len(inside))
        time.sleep(.002)
        try: return header(f)
        finally: inside.remove(f)
    monkeypatch.setattr(np.lib.format, 'read_array_header_1_0', slow)
    monkeypatch.setattr(images.defaults, 'cpus', 4)
    for i in range(40): np.save(tmp_path/f'{i}.npy', pixels(8,8))
    small_dls(tmp_path)
    assert len(most)>=40 and max(most)==1

def test_white_level(tmp_path):
    save_all(tmp_path, [np.full((8,8), 1000, np.uint16)]*5, '{}.tif', tif())
    def value(**kw): return np.asarray(small_dls(tmp_path, **kw).train_ds[0][0])[0,0]
    assert value()==249 and value(max_value=65535)==4 and value(max_value=1000)==255        # 1000/1023, 1000/65535
    with pytest.raises(ValueError, match=r"5 of 5 .* values from 1000 to 1000, all above 999: pass the value of white as max_value"):
        value(max_value=999)
    for bad,says in ((np.full((8,8), -1, np.int16),'from -1 to -1: pass min_value'),
                     (np.full((8,8), np.nan, np.float32),'100.00% of its values are not finite')):
        tifffile.imwrite(tmp_path/'bad.tif', bad)
        with pytest.raises(ValueError, match=rf"1 of 6 images can't be read: bad.tif\..*{says}"): value(max_value=1000)

def test_deep_file_outside_of_the_sample(tmp_path):
    save_all(tmp_path, [pixels(8,8)]*600, '{:03}.png')
    tifffile.imwrite(tmp_path/'301.tif', deep(8,8))
    (tmp_path/'301.png').unlink()
    with pytest.raises(ValueError, match="301.tif: it has uint16 values up to 4095, and the files looked at had 8 bits: pass max_value"):
        small_dls(tmp_path)
    assert len(small_dls(tmp_path, max_value=4095).train_ds)==480

@pytest.mark.parametrize('size,shape', [((6,10),(6,10)), (12,(12,12)), ((40,8),(40,8))])
def test_sizes(tmp_path, size, shape):
    "The shorter side fills the target and the middle stays"
    a = np.zeros((30,60,3), np.uint8)
    a[:,30:] = 255
    save_all(tmp_path, [a]*5)
    x = small_dls(tmp_path, size=size, bs=2).train.one_batch()[0]
    assert x.shape[2:]==shape
    assert abs(float(x.mean())) < .02 and torch.allclose(x, -x.flip(3), atol=.02)
    with pytest.raises(ValueError, match='size must be'): small_dls(tmp_path, size=(4,))
    with pytest.raises(ValueError, match='size must be'): small_dls(tmp_path, size=0)

def test_shrinking_averages(tmp_path):
    "Without antialiasing a fine chequerboard would become black or white, not gray"
    save_all(tmp_path, [(np.indices((64,64)).sum(0)%2*255).astype(np.uint8)]*5)
    x = np.asarray(small_dls(tmp_path, size=8).train_ds[0][0]).astype(int)
    assert abs(x-127).max() < 12

def test_large_jpegs_are_drawn_down(tmp_path, monkeypatch):
    sizes,finish = set(),ReadImage._finish
    def look(self, raw, o):
        sizes.add(raw.im.size)
        return finish(self, raw, o)
    monkeypatch.setattr(ReadImage, '_finish', look)
    y,x = np.mgrid[:1000,:1000]
    a = np.dstack([x/4,y/4,(x+y)/8]).astype(np.uint8)
    for i in range(5): Image.fromarray(a).save(tmp_path/f'{i}.jpg', quality=95)
    got = np.asarray(small_dls(tmp_path, size=50).train_ds[0][0]).astype(int)
    want = np.asarray(Image.fromarray(a).resize((50,50), Image.Resampling.BOX)).astype(int)
    assert abs(got-want).max() < 8 and sizes=={(125,125)}       # an eighth

@pytest.fixture
def classes(tmp_path):
    "Nested folders, images of different sizes, each with its own colour"
    for i in range(24):
        p = tmp_path/f'kind{i%2}'/f'class{i%4}'
        p.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(10+i,12,3)).save(p/f'{i}.png')
    return tmp_path

def table(path):
    return pd.DataFrame([dict(name=str(f.relative_to(path)), label=f.parent.name, held=int(f.stem)>=18)
                         for f in sorted(path.rglob('*.png'))])

def test_nested_folders(classes):
    dls = small_dls(classes)
    assert list(dls.vocab)==[f'class{i}' for i in range(4)] and len(dls.train_ds)+len(dls.valid_ds)==24
    assert all(dls.vocab[y]==f.parent.name for f,(_,y) in zip(dls.train_ds.items, dls.train_ds))
    x,y = dls.train.new(shuffle=False, bs=8).one_batch()
    assert type(y) is TensorCategory and [dls.vocab[o] for o in y]==[f.parent.name for f in dls.train_ds.items[:8]]
    assert len(small_dls(classes, limit=3, bs=2).vocab)==4        # classes that the draw leaves out are still classes
    def held(**kwargs): return {f.name for f in small_dls(classes, **kwargs).valid_ds.items}
    assert held()==held()!=held(seed=1)
    t = dls.test_dl(dls.valid_ds.items, with_labels=True)
    assert torch.equal(torch.cat([b[1] for b in t]), torch.cat([b[1] for b in dls.valid]))

@pytest.mark.parametrize('source', ['frame','csv'])
def test_tables(classes, source):
    df = table(classes)
    if source=='csv': df.to_csv(classes/'table.csv', index=False)
    src,kw = (df,dict(path=classes)) if source=='frame' else (classes/'table.csv',{})
    dls = small_dls(src, valid_col='held', fn_col='name', label_col='label', **kw)
    assert sorted(int(f.stem) for f in dls.valid_ds.items)==list(range(18,24)) and list(dls.vocab)==[f'class{i}' for i in range(4)]
    assert all(dls.vocab[y]==f.parent.name for f,(_,y) in zip(dls.train_ds.items, dls.train_ds))
    flat = small_dls(src, label_col=None, **kw)
    assert len(flat.train.one_batch())==1 and flat.train_ds.loss_func is no_loss and len(flat.train_ds)==20 and not hasattr(flat, 'vocab')
    df['label'] = [int(o[-1])+5 for o in df.label]
    assert list(small_dls(df, path=classes).vocab)==[5,6,7,8]

def test_a_table_without_a_header_is_refused(classes):
    names = [f.relative_to(classes).as_posix() for f in sorted(classes.glob('**/*.png'))]
    (classes/'t.csv').write_text('\n'.join(f'{n},a' for n in names))
    with pytest.raises(ValueError, match=f'header names the image {names[0]}'): image_dls(classes/'t.csv')

def test_names_of_a_csv_stay_what_they_are(tmp_path):
    for i in range(8): Image.fromarray(pixels(8,8,3)).save(tmp_path/f'{i:03}', 'PNG')
    (tmp_path/'t.csv').write_text('name,label\n' + ''.join(f'{i:03},{i%2}\n' for i in range(8)))
    assert len(small_dls(tmp_path/'t.csv', bs=2).train_ds)==7

@pytest.mark.parametrize('in_memory', [True,False])
def test_unreadable_files_are_named_together(classes, in_memory):
    "Of training and validation part, the very first file and a truncated one too"
    files = sorted(classes.rglob('*.png'))
    files[0].write_text('no image')
    cut = files[7].read_bytes()
    files[7].write_bytes(cut[:len(cut)//2])
    with pytest.raises(ValueError) as e: small_dls(classes, in_memory=in_memory, num_workers=0)
    for f in (files[0],files[7]): assert str(f.relative_to(classes)) in str(e.value)
    assert str(e.value).startswith("2 of 24 images can't be read: ") and '\n' not in str(e.value)
    for f in files: f.write_text('')
    with pytest.raises(ValueError, match="24 of 24 images can't be read: .* and 14 more"): small_dls(classes, in_memory=in_memory)

@pytest.mark.parametrize('how', [{}, dict(in_memory=False, num_workers=0), dict(cache=True)])
def test_unreadable_files_are_left_out_if_asked(classes, tmp_path_factory, capsys, how):
    if 'cache' in how: how = dict(cache=tmp_path_factory.mktemp('cache'))
    files = sorted(classes.rglob('*.png'))
    files[0].write_text('no image')
    for _ in range(2):          # the second time from the cache
        dls = small_dls(classes, skip_broken=True, **how)
        assert "! 1 image can't be read and is left out: " in capsys.readouterr().out
        assert len(dls.train_ds)+len(dls.valid_ds)==23 and files[0] not in [*dls.train_ds.items, *dls.valid_ds.items]
        x,y = next(iter(dls.valid.new(bs=99)))
        assert dls.vocab[y[0]]==dls.valid_ds.items[0].parent.name and len(x)==len(dls.valid_ds)
        pixels = torch.from_numpy(ReadImage(8).pixels(dls.valid_ds.items[0]))
        assert torch.allclose(x[0]*.5+.5, pixels/255, atol=1e-6)
    data_module._tell_skipped([(0,EOFError())], lambda i: 'cut.png')            # an error without a text
    assert capsys.readouterr().out=="! 1 image can't be read and is left out: cut.png. The first one: EOFError\n"
    with pytest.raises(ValueError, match='skip_broken=True finds broken files .* verify=True'):
        small_dls(classes, skip_broken=True, in_memory=False, verify=False)
    for f in files: f.write_text('')
    with pytest.raises(ValueError, match="0 images are left for training and 0 for validation"): small_dls(classes, skip_broken=True)

def test_memory_is_checked_first(classes, monkeypatch):
    class Little: available = 1000
    monkeypatch.setattr(psutil, 'virtual_memory', lambda: Little)
    monkeypatch.setattr(ReadImage, 'read', lambda *_: pytest.fail('decoded before the check'))
    says = "24 images of 3×64×64 need 0.3 MB of memory, and 0.0 MB are available. Pass cache='a folder' .psm_pretrain: --cache., to keep"
    with pytest.raises(ValueError, match=says): small_dls(classes, size=64)
    monkeypatch.undo()
    monkeypatch.setattr(psutil, 'virtual_memory', lambda: Little)
    assert len(small_dls(classes, size=64, in_memory=False, num_workers=0).train_ds)==20
    with pytest.raises(ValueError, match='need .* MB'): digits_dls().train.one_batch()

def test_one_copy_of_the_pixels(classes):
    dls = small_dls(classes)
    (x,_),(y,_) = dls.train._cache
    assert x.dtype==np.uint8 and x.nbytes==20*3*8*8 and x.base is not None
    same = lambda a,b: a.__array_interface__['data'][0]==b.__array_interface__['data'][0]
    assert same(dls.train.new(bs=2)._cache[0][0], x)
    v = dls.valid._cache[0][0]
    assert v.__array_interface__['data'][0]==x.__array_interface__['data'][0]+x.nbytes      # both are parts of one tensor

def test_batches_need_no_item(classes, monkeypatch):
    dls = small_dls(classes)
    monkeypatch.setattr(ReadImage, 'read', lambda *_: pytest.fail('read again'))
    for _ in range(2): assert sum(len(b[0]) for b in dls.train)==20
    for f in classes.rglob('*.png'): f.unlink()
    assert sum(len(b[0]) for b in dls.valid)==4

@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.posix)])     # elsewhere fastai may take none
def test_in_memory_equals_from_disk(classes, workers):
    mem,disk = (small_dls(classes, size=(8,9), in_memory=m, num_workers=workers) for m in (True,False))
    assert type(mem.train) is MemoryDL and type(disk.train) is TfmdDL and disk.train.fake_l.num_workers==workers
    for a,b in ((mem.valid,disk.valid),(mem.train.new(shuffle=False),disk.train.new(shuffle=False))):
        batches = list(zip(a, b, strict=True))
        for (x,y),(u,v) in batches: assert torch.equal(x, u) and torch.equal(y, v) and type(x) is type(u) and type(y) is type(v)
    mem.train.rng.seed(1), disk.train.rng.seed(1)
    for (x,y),(u,v) in zip(mem.train, disk.train, strict=True): assert torch.equal(x, u) and torch.equal(y, v)

@pytest.mark.parametrize('in_memory', [True,False])
def test_a_learner_predicts_what_it_is_given(classes, in_memory, tmp_path):
    dls = small_dls(classes, in_memory=in_memory, num_workers=0)
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))
    learn.logger,learn.path = noop,tmp_path
    want = learn.get_preds()[0][2]
    f = dls.valid_ds.items[2]
    with Image.open(f) as im: im.load()
    mode = type(im)
    with learn.no_bar():
        for o in (f, str(f), im, np.asarray(im), dls.valid_ds[2][0]): assert torch.allclose(learn.predict(o)[2], want, atol=1e-5)
        assert type(im) is mode and im.size!=(8,8)              # the caller's image is left alone
        learn.predict(im.convert('LA')), learn.predict(np.asarray(im.convert('L')))
        learn.show_results(max_n=2)
        with pytest.raises(ValueError if in_memory else Exception): learn.predict(np.zeros((2,3,4,5), np.uint8))
    learn.export('l.pkl')
    assert b'kind0' not in (tmp_path/'l.pkl').read_bytes()      # no names of files
    other = load_learner(tmp_path/'l.pkl')
    assert not len(other.dls.train_ds) and not getattr(other.dls.train, '_cache', None)
    with other.no_bar(): assert torch.allclose(other.predict(f)[2], want, atol=1e-5)

def test_gray_item_in_colour(classes):
    "An image of one kind does not lend its class to another"
    read = small_dls(classes).train_ds.tls[0].tfms.fs[0]
    assert type(read(PILImageBW.create(pixels(9,9)))) is PILImage and type(read(PILImageRGBA.create(pixels(9,9,4)))) is PILImage

def test_digits_are_what_they_were():
    d,order = load_digits(),np.random.default_rng(0).permutation(1797)
    want = (move_digits(torch.tensor(d.images).float()/16)*255).round().byte().numpy()
    dls = digits_dls()
    for dl,places in ((dls.train.new(shuffle=False, drop_last=False),order[450:]),(dls.valid,order[:450])):
        list(dl)
        (x,_),(y,_) = dl._cache
        assert (x[:,0]==want[places]).all() and (y==d.target[places]).all()
    assert type(dls.train_ds[0][0]) is PILImageBW and np.asarray(dls.train_ds[0][0]).tolist()==want[order[450]].tolist()

def cifar_tree(path, train, test, nested):
    for part,n in ((train,4),(test,2)):
        for c in range(3):
            p = path/part/f'super{c%2}'/f'class{c}' if nested else path/part/f'class{c}'
            p.mkdir(parents=True)
            save_all(p, [pixels(32,32,3) for _ in range(n)])

def test_cifar100(tmp_path, monkeypatch):
    cifar_tree(tmp_path, 'train', 'test', True)
    monkeypatch.setattr(data_module, 'untar_data', lambda url: tmp_path if url==URLs.CIFAR_100 else pytest.fail(url))
    dls = cifar100_dls(bs=4)
    assert list(dls.vocab)==['class0','class1','class2'] and (len(dls.train_ds),len(dls.valid_ds))==(12,6)
    norm = dls.train.after_batch.fs[-1]
    assert torch.allclose(norm.mean.flatten().cpu(), torch.tensor(cifar100_stats[0])) and dls.train.one_batch()[0].shape==(4,3,32,32)
    assert len(cifar100_dls(bs=2, limit=5, in_memory=False, num_workers=0).train_ds)==5

def test_tiny_imagenet(tmp_path):
    with pytest.raises(ValueError, match='is not laid out as Tiny ImageNet'): tiny_imagenet_dls(tmp_path)
    wnids = ['n01','n02']
    for c in wnids:
        (tmp_path/'train'/c/'images').mkdir(parents=True)
        save_all(tmp_path/'train'/c/'images', [pixels(64,64,3), pixels(64,64), pixels(64,64,3)], c+'_{}.JPEG')
    with pytest.raises(ValueError, match='is not laid out as Tiny ImageNet'): tiny_imagenet_dls(tmp_path)
    (tmp_path/'val/images').mkdir(parents=True)
    save_all(tmp_path/'val/images', [pixels(64,64,3) for _ in range(4)], 'val_{}.JPEG')
    (tmp_path/'test/images').mkdir(parents=True)
    save_all(tmp_path/'test/images', [pixels(64,64,3)], 'test_{}.JPEG')
    def annotate(cs):
        (tmp_path/'val/val_annotations.txt').write_text(''.join(f'val_{i}.JPEG\t{c}\t0\t32\t44\t62\n' for i,c in enumerate(cs)))
    annotate(['n02','n01','n01','n02'])
    dls = tiny_imagenet_dls(tmp_path, bs=2)
    assert list(dls.vocab)==wnids and (len(dls.train_ds),len(dls.valid_ds))==(6,4)
    assert [dls.vocab[y] for _,y in dls.valid_ds]==['n02','n01','n01','n02']
    assert [f.name for f in dls.valid_ds.items]==[f'val_{i}.JPEG' for i in range(4)]
    assert all(dls.vocab[y]==f.parent.parent.name for f,(_,y) in zip(dls.train_ds.items, dls.train_ds))
    assert dls.train.one_batch()[0].shape==(2,3,64,64)
    assert tiny_imagenet_dls(tmp_path, bs=2, size=32).one_batch()[0].shape==(2,3,32,32)
    annotate(['n02','n01','n09','n02'])
    with pytest.raises(ValueError, match='labels that are no folder of .*train, such as n09'): tiny_imagenet_dls(tmp_path)

@pytest.mark.skipif(not (fastai_cfg().path('data')/'cifar10').exists(), reason='CIFAR-10 is not on this machine')
def test_cifar10():
    dls = cifar10_dls(limit=1000, bs=100)
    assert (len(dls.train_ds),len(dls.valid_ds),len(dls.vocab))==(1000,200,10)
    x,y = dls.train.new(shuffle=False, bs=1000, drop_last=False).one_batch()
    assert x.mean().abs() < .05 and abs(x.std()-1) < .05
    assert all(dls.vocab[int(a)]==f.parent.name for a,f in zip(y, dls.train_ds.items))
    with Image.open(dls.train_ds.items[3]) as im: assert (np.asarray(im)==np.asarray(dls.train_ds[3][0])).all()
