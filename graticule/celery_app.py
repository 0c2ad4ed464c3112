"""The application that command-line tools such as Flower load: `celery -A graticule.celery_app flower`."""

from graticule.broker import make_celery
from graticule.settings import load_settings

app = make_celery(load_settings())
