"Everything public, for notebooks: `from psm_fastai.all import *`"
from psm_fastai.data import *
from psm_fastai.bank import *
from psm_fastai.mining import *
from psm_fastai.loss import *
from psm_fastai.views import *
from psm_fastai.encoder import *
from psm_fastai.model import *
from psm_fastai.learner import *
from psm_fastai.preflight import *
from psm_fastai.health import *
from psm_fastai.callback import *
from psm_fastai.evaluate import *
from psm_fastai.transfer import *
from psm_fastai.checkpoint import *
from psm_fastai.monitor import *
from psm_fastai.explore import *
