"""Saves: the training thread's side of one save, from the question whether it is due to the end of its handle.

``deciding``      which steps are saved, alike on all ranks; ``cadence`` how often that is, ``urgency`` what cannot wait
``preparing``     a plan and memory before they are needed; ``admission`` whether what saves will need is there
``saving``        one save; ``queued`` those not begun, ``handing`` one on its way between threads, ``waiting`` for it;
                  ``giving_way`` what makes room for an emergency
``answering``     what the worker says of it; ``outcomes`` how it ends and who is told, ``handle`` its future
``interference``  how much longer steps take meanwhile, and the pace that bounds it; ``rhythm`` when a step is over
"""
