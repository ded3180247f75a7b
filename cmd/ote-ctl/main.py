from ote.apps.ctl import main

raise SystemExit(main())
