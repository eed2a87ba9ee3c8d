"""The fluid: physics on arrays, free of PyMC and of any global state.

Read it in this order: ``state`` (what a fluid is), ``kernels`` and ``density`` (its density
field), ``equation_of_state`` and ``forces`` (what pushes it), ``interpolation`` (fields at probes
brought to the particles), ``resolution``, ``mass`` and ``frame`` (what else may change), ``step``
(one step), ``schedule`` (rates, temperature, stopping) and ``simulate`` (many steps).

The paper's own scheme has rooms beside these: ``radial_kernels``, ``neighbours``,
``smoothing_length``, ``summation`` and ``continuity`` (the density), ``momentum`` and ``external``
(the forces), ``integrators``, ``collocated`` (one step) and ``relaxation`` (many).
"""
