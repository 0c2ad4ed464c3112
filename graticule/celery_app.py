"""The application that command-line tools such as Flower load: `celery -A graticule.celery_app flower`."""

from graticule.broker import make_celery
from graticule.settings import load_settings

app = make_celery(load_settings())

# Every consumer of Celery's takes its turn in giving the jobs of dead workers back. An observer keeps notes of its own,
# so that it needs no rights to the workers' notes, and no job depends on it.
app.conf.broker_transport_options.update(
    unacked_key="observer.unacked",
    unacked_index_key="observer.unacked_index",
    unacked_mutex_key="observer.unacked_mutex",
)
