'use strict';
// Reads the page again, and puts in place what has changed. Without this script a page is whole, and comes anew by itself every ten seconds.
(() => {
  const body = document.body;
  const wait = Number(body.dataset.refresh) * 1000;
  const contact = document.getElementById('contact');
  let tag = body.dataset.tag;
  let timer;
  let since = null; // when the control plane last answered, once it does not

  document.documentElement.classList.add('js');

  document.addEventListener('click', async (event) => {
    const button = event.target.closest('button.copy');
    if (!button) return;
    const code = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = 'Copied';
    } catch {
      // Not allowed here, as over plain http: then it is selected, to be copied by hand.
      getSelection().selectAllChildren(code);
      button.textContent = 'Selected';
    }
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
  });

  if (!wait) return;
  document.getElementById('live').textContent = 'live,';

  const focusable = 'a, button, summary, input';

  // put replaces one element unless somebody is reading in it by mouse, and keeps what is open and what has the focus.
  function put(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    const selection = getSelection();
    if (!selection.isCollapsed && selection.containsNode(old, true)) return;
    const openDetails = [...old.querySelectorAll('details[open]')].map((d) => d.id);
    const focused = [...old.querySelectorAll(focusable)].indexOf(document.activeElement);
    const scrolled = [...old.querySelectorAll('.scroll')].map((s) => s.scrollLeft);
    old.replaceWith(fresh);
    for (const d of fresh.querySelectorAll('details')) d.open = d.open || openDetails.includes(d.id);
    fresh.querySelectorAll('.scroll').forEach((s, i) => { s.scrollLeft = scrolled[i] || 0; });
    if (focused >= 0) {
      const next = fresh.querySelectorAll(focusable)[focused];
      if (next) next.focus({preventScroll: true});
    }
  }

  function show(text) {
    const fresh = new DOMParser().parseFromString(text, 'text/html');
    const main = document.getElementById('main');
    const freshMain = fresh.getElementById('main');
    const ids = (m) => [...m.children].map((c) => c.id).join(' ');
    if (ids(main) === ids(freshMain)) {
      const pairs = [...main.children].map((old, i) => [old, freshMain.children[i]]);
      for (const [old, now] of pairs) put(old, document.adoptNode(now));
    } else {
      put(main, document.adoptNode(freshMain));
    }
    for (const id of ['standpoint', 'open-records']) put(document.getElementById(id), document.adoptNode(fresh.getElementById(id)));
    document.title = fresh.title;
    tag = fresh.body.dataset.tag;
  }

  function answered(response) {
    const now = new Date(response.headers.get('Date') || Date.now());
    const clock = document.getElementById('clock');
    clock.textContent = now.toISOString().slice(11, 19) + ' UTC';
    clock.dateTime = now.toISOString();
    if (since) {
      since = null;
      contact.textContent = '';
      body.classList.remove('stale');
    }
  }

  function lost(why) {
    if (since) return;
    since = document.getElementById('clock').textContent;
    contact.textContent = 'No answer from the control plane since ' + since + ' (' + why + '). What you see is from then, and may be wrong by now.';
    body.classList.add('stale');
  }

  async function refresh() {
    clearTimeout(timer);
    if (document.visibilityState === 'visible') {
      try {
        const response = await fetch(location.pathname + location.search, {
          headers: {'If-None-Match': tag}, cache: 'no-store', redirect: 'error', signal: AbortSignal.timeout(10000),
        });
        if (response.status === 401) {
          location.reload(); // to the form
          return;
        }
        if (response.status === 304) answered(response);
        else if (response.ok) {
          show(await response.text());
          answered(response);
        } else lost('it answered ' + response.status);
      } catch (error) {
        lost(error.name === 'TimeoutError' ? 'it takes too long' : 'it cannot be reached');
      }
    }
    timer = setTimeout(refresh, wait);
  }

  document.addEventListener('visibilitychange', () => { if (document.visibilityState === 'visible') refresh(); });
  timer = setTimeout(refresh, wait);
})();
