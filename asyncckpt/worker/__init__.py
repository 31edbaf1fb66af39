"""Worker: everything that happens to a snapshot after it was handed over. No torch below this line.

``watermark``  how far an arena is filled, and by whom it may be read
``job``        one save as plain data
``pipeline``   arena to packs: digest and write behind the watermark
``commit``     the one place where a record is created and its outcome decided
``writer``     one writer's hold on a run: open, commit, roll back, close
``sweep``      what earlier incarnations left, and its removal
``service``    the serial actor: job in, reply out
``pool``       the thread that runs it, replaced when it dies
``executor``   what a trainer asks of it, wherever it runs
``bridge``     the same for a worker process; ``exchange`` what it was asked, ``replies`` what it says
``succession`` one such process after the other; ``link`` is to one, ``pending`` a job that it has not answered
``channel``    the socket between the two; ``wire`` and ``failures`` what goes through it
``host``       the worker process's side, which outlives its trainer by one commit; ``entrusted`` what it is given,
               ``calls`` what it is asked
``adopting``   waiting for such a worker; ``logs`` by which it is found
"""
