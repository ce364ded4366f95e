"Make the pictures of nbs/images: python tools/pictures.py (a minute; trains on the digits as `psm_pretrain digits` does)"
import tempfile
from pathlib import Path
from psm_fastai.explore import mined_neighbours
from psm_fastai.pretrain import psm_pretrain

images = Path(__file__).resolve().parent.parent/'nbs/images'
images.mkdir(exist_ok=True)
learn = psm_pretrain('digits', out=tempfile.mkdtemp())
ids = mined_neighbours(learn, n=10, k=1).sort_values('query_label')['query'].tolist()
learn.show_neighbours(ids, k=8, size=.75).savefig(images/'neighbours.png', dpi=110)
