"Copies, strangers and kinds are found in images whose truth is known, with labels or without, from a learner or from a file"
import os, numpy as np, pandas as pd, pytest, tifffile, torch
from fastai.vision.all import Image, Learner, Path
from psm_fastai.all import *
from common import *
from data import noise_files

class Plain(torch.nn.Module):
    "Pixels averaged to 4×4 are the features: nothing to learn, and near means alike"
    def forward(self, x): return torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)

@pytest.fixture
def folder(tmp_path):
    "Three kinds of blobs of different sizes, a copy, a mirrored copy, and a stranger"
    rng = np.random.default_rng(0)
    for i in range(36):
        a = rng.integers(0, 20, (40,40,3))
        a[:,:,i%3] += 180
        Image.fromarray(a.astype(np.uint8)).save(tmp_path/f'{"rgb"[i%3]}{i:02}.png')
    half = np.zeros((40,40,3), np.uint8)
    half[:,:20] = 255
    Image.fromarray(half).save(tmp_path/'stranger.png')
    im = Image.open(tmp_path/'g04.png')
    im.save(tmp_path/'z copy.bmp')
    return tmp_path

def learner(path, **kwargs): return Learner(image_dls(path, size=32, bs=8, **kwargs), Plain(), loss_func=no_loss)

def stems(t, col='file'): return [Path(f).stem for f in t[col]]

@pytest.mark.parametrize('valid_pct', [0,.2])
def test_every_image_takes_part(folder, valid_pct):
    c = learner(folder, valid_pct=valid_pct).collection()
    assert len(c)==38 and sorted(stems(c.table))==sorted(f.stem for f in folder.iterdir())
    for i in range(38):
        with Image.open(c.table.file[i]) as im:
            assert abs(np.asarray(im.convert('RGB')).mean()-np.asarray(c.picture(i)).mean())<2, 'the picture is of this file'

def test_kinds_are_found_and_so_is_their_number(folder):
    (folder/'stranger.png').unlink()
    learn = learner(folder)
    for n in (3,None):
        t = learn.clusters(n)
        kind = pd.Series([s[0] for s in stems(t)])
        t = t[kind!='z']
        assert t.cluster.nunique()==3 and (pd.crosstab(t.cluster, kind)>0).sum().sum()==3
    assert learn.clusters(3)['rank'].value_counts()[1]==3

def test_what_is_to_be_labelled_can_be_read_back(folder):
    "After the labels were filled in; files below the CSV by their way from it, others by their whole path"
    learn = learner(folder)
    for out in (folder/'todo.csv', folder.parent/f'{folder.name}.csv'):
        t = learn.to_label(6, out)
        named = pd.read_csv(out)
        assert len(t)==len(named)==6 and t.stands_for.sum()==38 and t.stands_for.is_monotonic_decreasing
        named.assign(label=[s[0] for s in stems(named)]).to_csv(out, index=False)
        dls = image_dls(out, size=32, bs=2)
        assert {*dls.vocab} >= {'r','g','b'}
        out.unlink()

def test_a_file_answers_as_the_learner_does(folder, tmp_path_factory):
    learn = learner(folder)
    c,f = learn.collection(),tmp_path_factory.mktemp('out')/'features.parquet'
    c.save(f)
    back = load_collection(f.parent)
    for ask in (lambda c: c.duplicates(6), lambda c: c.outliers(6), lambda c: c.clusters(3), lambda c: c.to_label(4)):
        assert ask(back).file.tolist()==ask(c).file.tolist()
    t = pd.read_parquet(f)
    assert t.duplicate_of.notna().sum()==1 and len(t.features[0])==48
    back.duplicates(3).show(), back.clusters(3).show(ncols=3)

def test_a_file_names_images_from_everywhere(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    c = learner(Path(folder.name)).collection()
    assert not Path(c.table.file[0]).is_absolute()
    c.save(tmp_path/'features.parquet')
    monkeypatch.chdir(tmp_path)
    back = load_collection(tmp_path)
    assert [Path(f).parent for f in back.table.file]==[folder]*38 and Path(back.table.file[0]).exists()

def test_the_folder_of_a_run_answers_for_new_pictures(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp('run')
    learn = psm_learner(image_dls(folder, size=32, bs=8, valid_pct=0), 'small_resnet')
    learn.save_encoder(out/'encoder.safetensors')
    photos = learn.collection()
    photos.save(out/'features.parquet')
    again,files = load_collection(out),[Path(photos.table.file[5]),Path(photos.table.file[20])]
    axes = np.array(drawn(lambda: again.show_nearest(files, n=3)).axes).reshape(2, 4)
    for row,i in zip(axes, (5,20)):
        best = (photos.unit@photos.unit[i]).topk(3)
        assert [ax.get_title().split()[0] for ax in row[1:]]==[f'{s:.2f}' for s in best.values] and row[1].get_title().startswith('1.00')
    with pytest.raises(ValueError, match='There is no encoder.safetensors next to these features'): photos.show_nearest(files)

def test_asked_picture_and_neighbours_are_cut_alike(tmp_path):
    "Files of other proportions than training's squares"
    rng = np.random.default_rng(0)
    for i in range(12):
        size = (20,60) if i%2 else (60,20)
        Image.fromarray(rng.integers(0, 256, (*size,3), dtype=np.uint8)).save(tmp_path/f'{i}.png')
    learn,out = psm_learner(image_dls(tmp_path, size=16, bs=4, valid_pct=0), 'small_resnet'),tmp_path/'run'
    out.mkdir()
    learn.save_encoder(out/'encoder.safetensors')
    learn.collection().save(out/'features.parquet')
    asked,*near = [ax.images[0].get_array() for ax in drawn(lambda: load_collection(out).show_nearest(tmp_path/'3.png', n=4)).axes]
    assert np.array_equal(asked, near[0]) and {a.shape for a in near}=={(16,16,3)}

def write_signs(path):
    "Two signs that differ above and below only, where training cuts, the second as PNG and as BMP, and others"
    noise_files(path, [(16,16)]*6)
    for name,top in (('treble',0),('bass',255)):
        a = np.full((60,20,3), top, np.uint8)
        a[10:50] = np.arange(40)[:,None,None]*6
        Image.fromarray(a).save(path/f'{name}.png')
    Image.open(path/'bass.png').save(path/'bass copy.bmp')

def test_pictures_that_only_the_crop_makes_equal_are_no_copies(tmp_path):
    "Somebody will delete one of two that have the same pixels"
    write_signs(tmp_path)
    c = learner(tmp_path, valid_pct=0).collection()
    at = {Path(f).stem: i for i,f in enumerate(c.table.file)}
    assert torch.equal(c.feats[at['treble']], c.feats[at['bass']]), 'training sees no difference'
    d = c.duplicates(200)
    copies = d[d.same_pixels]
    assert [{*p} for p in zip(stems(copies), stems(copies, 'other'))]==[{'bass','bass copy'}]
    assert {'treble','bass'} in [{*p} for p in zip(stems(d[:3]), stems(d[:3], 'other'))], 'but they look alike'
    c.save(tmp_path/'f.parquet')
    t = pd.read_parquet(tmp_path/'f.parquet')
    assert {*stems(t[t.duplicate_of.notna()])} < {'bass','bass copy'} and t.duplicate_of.notna().sum()==1

@pytest.mark.parametrize('collected', [False,True])
def test_the_map_calls_only_whole_pictures_copies(tmp_path, collected):
    write_signs(tmp_path)
    history = NeighbourHistory(n_probes=2, n_pos=2)
    learn = quiet(image_dls(tmp_path, size=16, bs=3, valid_pct=0), model=tiny(3),
                  cbs=[PSMCallback(bank_size=9, mine_after=0., refresh=1, n_pos=2), history], loss_func=no_loss)
    learn.fit(1)
    if collected: history.collection = learn.collection()
    view = map_view(history)
    copy_of = next(c['values'] for c in view['columns'] if c['name']=='duplicate_of')
    found = [{view['files'][i], view['files'][j]} for i,j in enumerate(copy_of) if j>=0]
    assert found==[{'bass.png','bass copy.bmp'}]

def test_transparent_pictures_are_drawn_over_white(tmp_path):
    "Whatever colours lie behind"
    rng,folder = np.random.default_rng(0),tmp_path/'signs'
    folder.mkdir()
    for i in range(12):
        a = rng.integers(0, 256, (20,20,4), dtype=np.uint8)
        a[...,3] = 255
        a[:10,:,3] = 0
        Image.fromarray(a).save(folder/f'{i}.png')
    Image.fromarray(a[...,0]).convert('P').save(folder/'palette.png', transparency=int(a[0,0,0]))
    learner(folder, valid_pct=0).collection().save(tmp_path/'f.parquet')
    c = load_collection(tmp_path/'f.parquet')
    for i,f in enumerate(c.table.file):
        got = np.asarray(c.picture(i))
        with Image.open(f) as im: want = np.asarray(im.convert('RGBA'))
        clear = want[...,3]==0
        assert got.shape==(20,20,3) and clear.any() and (got[clear]==255).all() and (got[~clear]==want[~clear][:,:3]).all()

def test_files_are_saved_by_their_plain_path(folder, monkeypatch):
    (folder/'in').mkdir()
    c = learner(folder/'in'/'..', valid_pct=0).collection()
    c.save(folder/'f.parquet')
    assert {*load_collection(folder/'f.parquet').table.file}=={str(f) for f in folder.glob('?*.png')} | {str(folder/'z copy.bmp')}
    c.to_label(3, folder/'in'/'..'/'todo.csv')
    assert all('/' not in f for f in pd.read_csv(folder/'todo.csv').file)

def test_saved_pictures_of_more_than_8_bits_are_neither_white_nor_black(tmp_path):
    "With the black and white of training if the encoder lies next to them, else by their own values"
    rng,folder = np.random.default_rng(0),tmp_path/'deep'
    folder.mkdir()
    for i in range(10):
        a = np.linspace(0, 100*(i+1), 400).reshape(20,20)
        tifffile.imwrite(folder/f'{i}.tif', rng.permutation(a).astype(np.float32 if i%2 else np.uint16))
    learn = psm_learner(image_dls(folder, size=20, bs=2, valid_pct=0), 'small_resnet')
    photos = learn.collection()
    photos.save(tmp_path/'features.parquet')
    for with_encoder in (False,True):
        if with_encoder: learn.save_encoder(tmp_path/'encoder.safetensors')
        back = load_collection(tmp_path)
        for i in range(10):
            got,seen = (np.asarray(c.picture(i).convert('L')).astype(int) for c in (back,photos))
            if with_encoder: assert (got==seen).all()
            else: assert len(np.unique(got))>50 and got.max()>90 and np.corrcoef(got.ravel(), seen.ravel())[0,1]>.99

def test_images_that_max_pixels_lets_in_are_shown_or_replaced(tmp_path, monkeypatch):
    "A history does not end their training. A saved collection draws their small gray picture, if there is no encoder that knows the limit"
    noise_files(tmp_path, [(40,40)]*12)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    dls = image_dls(tmp_path, size=16, bs=4, valid_pct=0, max_pixels=1600)
    history = NeighbourHistory(n_probes=2, n_pos=2)
    learn = quiet(dls, model=small_resnet(), cbs=[PSMCallback(bank_size=8), history], loss_func=no_loss)
    learn.fit(1)
    assert history.thumbs.px==48 and all(history.thumbs.picture(str(i)) for i in range(12))         # by their 40 pixels, not by 16
    learn.collection().save(tmp_path/'f.parquet')
    back = load_collection(tmp_path/'f.parquet')
    back.outliers(2).show()
    assert back.picture(0).size==(16,16)
    learn.save_encoder(tmp_path/'encoder.safetensors')
    known = load_collection(tmp_path/'f.parquet')
    known.show_nearest(tmp_path/'0.png')
    assert known.picture(0).size==(40,40)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1600)
    assert back.picture(0).size==(40,40)

def test_pairs_are_compared_in_parts_and_only_the_best_come_back(monkeypatch):
    "With the values that one table of all pairs has, and memory for a few pairs"
    from psm_fastai import collection
    g,most = torch.Generator().manual_seed(0),[]
    gray,feats = torch.randint(0, 256, (300,16,16), dtype=torch.uint8, generator=g),torch.randn(300, 8, generator=g)
    gray[1::10],feats[1::10] = gray[::10].flip(2),feats[::10]
    names,pixels = [f'{i}.png' for i in range(300)],[str(i-i%2 if i%20<2 else i) for i in range(300)]
    c = Collection(feats, gray, pd.DataFrame(dict(file=names, label=None, pixels=pixels)))
    pairs = c.duplicates(11*300)
    want = pairs[~pairs.same_pixels & (pairs.likeness>0)].head(20)[['row','other_row']].to_numpy().tolist()
    all_pairs = likeness(gray[pairs.row.to_numpy()], gray[pairs.other_row.to_numpy()])
    np.testing.assert_array_equal(pairs.likeness, all_pairs)
    monkeypatch.setattr(collection, '_at_once', 100)
    monkeypatch.setattr(collection, 'likeness', lambda a, b: most.append(len(a)) or likeness(a, b))
    assert c.near_copies(20)==want and len(want)==20 and pairs.same_pixels.sum()==15
    assert max(most)==100 and sum(most)==len(pairs)
    pd.testing.assert_frame_equal(c.duplicates(11*300), pairs)

@pytest.mark.parametrize('bands', [2,5,12])
def test_nearest_images_of_many_bands_are_drawn(tmp_path, bands):
    rng = np.random.default_rng(0)
    for i in range(12): np.save(tmp_path/f'{i}.npy', rng.integers(0, 256, (16,16,bands), dtype=np.uint8))
    learn = psm_learner(image_dls(tmp_path, size=16, bs=4, valid_pct=0, channels=bands), 'small_resnet')
    asked,first,*_ = drawn(lambda: learn.show_nearest(tmp_path/'3.npy', n=2)).axes
    assert np.array_equal(asked.images[0].get_array(), first.images[0].get_array())

def test_an_answer_is_shown_or_says_why_not(tmp_path):
    "Also if it is empty, lost its images, or has file names that look like formulas"
    noise_files(tmp_path, [(16,16)]*12, [f'${i}_{{$.png' for i in range(12)])
    photos = psm_learner(image_dls(tmp_path, size=16, bs=4, valid_pct=0)).collection()
    pairs = photos.duplicates(4)
    titles = [ax.get_title() for ax in drawn(pairs.show).axes]
    assert all(t.startswith('$') for t in titles[:8])
    plt.gcf().canvas.draw()
    with pytest.raises(ValueError, match='has no rows'): pairs[pairs.same_pixels].show()
    for lost in (pairs.merge(pairs[['row']], on='row'), pd.concat([pairs, pairs])):
        with pytest.raises(ValueError, match='has lost its images'): lost.show()
    assert len(drawn(pairs[pairs.likeness>-1].show).axes)==8

def test_names_that_are_no_text(tmp_path):
    "A CSV to fill in can't have them, which is said before anyone fills it in. Flags have them as text"
    names = [os.fsdecode(b'\xe9 %d.png' % i) for i in range(12)]
    folder = noise_files(tmp_path/'photos', [(16,16)]*12, names)
    history = NeighbourHistory(n_probes=4, n_pos=2)
    learn = quiet(image_dls(folder, size=16, bs=4, valid_pct=0), model=tiny(3), cbs=[PSMCallback(bank_size=8), history], loss_func=no_loss)
    learn.fit(1)
    photos = learn.collection()
    with pytest.raises(ValueError, match=r'3 of 3 files have names that are no valid text, such as .udce9 [0-9]+.png'):
        photos.to_label(3, tmp_path/'label.csv')
    assert not (tmp_path/'label.csv').exists() and {Path(f).name for f in photos.to_label(3).file} <= {*names}
    ex = NeighbourExplorer(history, layout='pca')
    ex.flag()
    ex.to_csv(tmp_path/'flags.csv')
    file, = pd.read_csv(tmp_path/'flags.csv').query_file
    assert Path(file).name.startswith('�')

def test_learner_and_collection_take_the_same(folder, tmp_path_factory):
    "`near` for outliers, and several images in a list, a tuple or a generator"
    out,learn = tmp_path_factory.mktemp('run'),psm_learner(image_dls(folder, size=32, bs=8, valid_pct=0), 'small_resnet')
    photos = learn.collection()
    assert learn.outliers(4, near=1).distance.tolist()==photos.outliers(4, near=1).distance.tolist()!=photos.outliers(4).distance.tolist()
    learn.save_encoder(out/'encoder.safetensors')
    photos.save(out/'features.parquet')
    files = Path(photos.table.file[5]),Path(photos.table.file[20])
    for asked in (learn,load_collection(out)):
        want = [ax.get_title() for ax in drawn(lambda: asked.show_nearest([*files], n=2)).axes]
        assert len(want)==6
        for several in (files,iter(files)): assert [ax.get_title() for ax in drawn(lambda: asked.show_nearest(several, n=2)).axes]==want
