"""Which line of the SPIFFE conformance list, and which fault, is held by which tests: ``make matrix``.

A test says so itself: ``@pytest.mark.spiffe(5)``, ``@pytest.mark.fault(16)``. A test so marked fails when the line is
broken.
"""
