"""D-TIIL: where an image and its caption contradict each other, and which words do."""

from jaxkd.pipelines.dtiil.localise import Finding, Settings, localise

__all__ = ["Finding", "Settings", "localise"]
