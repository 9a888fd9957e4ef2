"""ImageExampleGen: turns a folder of labelled images into checked, split tf.Examples, and lists what it refuses."""

from typing import TYPE_CHECKING

from graftline.faces import face

if TYPE_CHECKING:
    from graftline.components.image_example_gen.artifacts import Quarantine
    from graftline.components.image_example_gen.assignments import mend as mend_splits
    from graftline.components.image_example_gen.component import ImageExampleGen
    from graftline.components.image_example_gen.duplicates_report import HTML_NAME as DUPLICATES_PAGE
    from graftline.components.image_example_gen.fingerprint import fingerprint as fingerprint_images
    from graftline.components.image_example_gen.layouts import Layout, check_settings
    from graftline.components.image_example_gen.quarantine import CSV_NAME as QUARANTINE_LIST
    from graftline.components.image_example_gen.quarantine import SUMMARY_NAME as INGEST_SUMMARY
    from graftline.components.image_example_gen.scan import check_decodable
    from graftline.components.image_example_gen.scan import scan as scan_images
    from graftline.components.image_example_gen.settings import IngestSettings

__getattr__ = face(__name__)
