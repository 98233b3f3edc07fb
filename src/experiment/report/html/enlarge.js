// An image in an element of class `gallery` opens enlarged. A gallery has one tab stop; the arrow
// keys move within it.
(() => {
  'use strict';
  const dialog = document.querySelector('dialog');
  const [shown, caption] = [dialog.querySelector('img'), dialog.querySelector('figcaption')];
  let current;

  const gallery = (image) => [...image.closest('.gallery').querySelectorAll('img')];

  // The image at a distance, in reading order, or the same one at the ends.
  const neighbour = (image, distance) => {
    const all = gallery(image);
    return all[all.indexOf(image) + distance] ?? image;
  };

  const focus = (image) => {
    gallery(image).forEach((other) => { other.tabIndex = -1; });
    image.tabIndex = 0;
    image.focus();
  };

  const show = (image) => {
    current = image;
    shown.src = image.src;
    shown.alt = image.alt;
    caption.textContent = image.dataset.caption;
  };

  const open = (image) => {
    show(image);
    dialog.showModal();
  };

  const distances = (image) => {
    const perRow = image.closest('tr, .row').querySelectorAll('img').length;
    return { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -perRow, ArrowDown: perRow };
  };

  for (const images of document.querySelectorAll('.gallery')) {
    images.querySelectorAll('img').forEach((image, number) => {
      image.setAttribute('role', 'button');
      image.tabIndex = number ? -1 : 0;
    });
    images.addEventListener('click', ({ target }) => target.matches('img') && open(target));
    images.addEventListener('keydown', (event) => {
      const image = event.target;
      const distance = distances(image)[event.key];
      if (distance) focus(neighbour(image, distance));
      else if (event.key === 'Enter' || event.key === ' ') open(image);
      else return;
      event.preventDefault();
    });
  }

  dialog.addEventListener('keydown', (event) => {
    const distance = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (distance) show(neighbour(current, distance));
  });
  dialog.addEventListener('click', ({ target }) => {
    const { step } = target.dataset;
    if (step) show(neighbour(current, Number(step)));
    else if (target === dialog || target.matches('.close')) dialog.close();
  });
  dialog.addEventListener('close', () => focus(current));
})();
