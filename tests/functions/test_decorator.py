"""A guard decorates static methods, class methods and classes."""

from guarding import made


def test_static_and_class_methods_can_be_decorated_above_or_below():
    guard = made()

    class Shop:
        @guard
        @staticmethod
        def fixed(of):
            return of * 2

        @guard
        @classmethod
        def named(cls, of):
            return cls.__name__ * of

        @staticmethod
        @guard
        def below(of):
            return of * 2

    assert (Shop.fixed(2), Shop().fixed(2), Shop.below(2)) == (4, 4, 4)
    assert (Shop.named(2), Shop().named(1)) == ("ShopShop", "Shop")


def test_a_guarded_class_returns_its_instances():
    class Tool:
        async def __call__(self):
            return 3

    assert isinstance(made()(Tool)(), Tool)
