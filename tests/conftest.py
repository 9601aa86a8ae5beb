"""Give all tests their fixtures, where tests run."""


def pytest_configure(config):
    """With `-n`, the process that hands tests to others runs none: importing torch would keep the others waiting."""
    if hasattr(config, "workerinput") or not config.option.numprocesses:
        config.pluginmanager.import_plugin("shared_fixtures")
